"""Training runs: what they check, compute and leave behind."""
