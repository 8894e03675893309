"""Interpolates models: weights between models, the merge of general and customized, and the frontier."""
