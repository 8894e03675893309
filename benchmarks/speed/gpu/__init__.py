"""The benchmark of a GPU, `benchmarks/throughput.py --device cuda`: its sides, measurements, parts and tables."""
