"""Parts of `benchmarks/readers.py`: the models and texts, the environments, and the programs that read them."""
