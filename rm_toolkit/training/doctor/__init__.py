"""What is installed, what works on this machine, and what a run is missing; nothing is loaded or trained."""
