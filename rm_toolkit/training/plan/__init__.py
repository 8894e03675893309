"""What a run needs: memory per GPU and per host, steps, and hours, computed before anything is loaded."""
