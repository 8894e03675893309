"""What is installed here, what works on this machine, and what a run would miss; nothing is loaded or trained."""
