"""Inspects preference data before training: counts, lengths, overlaps and the words that distinguish groups."""
