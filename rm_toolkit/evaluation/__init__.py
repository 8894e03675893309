"""Judging a reward model: counts, metrics, and the rewards they are made of."""
