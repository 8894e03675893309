"""The GPU benchmark, `benchmarks/throughput.py --device cuda`: its sides, measurements, parts and tables."""
