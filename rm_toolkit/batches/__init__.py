"""Rows -> token ids -> batches: encoding, token cache, shared prefixes, collator, filling, epoch and stream plans."""
