"""What a run needs: memory of each GPU and of the host, steps, and hours, worked out before anything is loaded."""
