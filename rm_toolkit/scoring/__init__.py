"""Rewards of texts: the scorer, adapters of several domains in one batch, files, and the reload check."""
