"""Reward models and their folders: heads, tokenizer, settings, loading, saving, adapters, quantization, the table of files."""
