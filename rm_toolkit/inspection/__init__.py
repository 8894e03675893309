"""Looking at preference data before training on it: counts, lengths, overlaps and the words that tell groups apart."""
