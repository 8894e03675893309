"""Rows -> token ids -> batches: encoding, the token cache, shared prefixes, the collator, filling, plans of an epoch or a stream."""
