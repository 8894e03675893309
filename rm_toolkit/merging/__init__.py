"""Models between models: interpolated weights, the merge of general and customized, and the frontier."""
