"""Attacks on every command and recipe: full disks, signals, killed processes, endpoints that do not respond."""
