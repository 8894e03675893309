"""Parts of `benchmarks/throughput.py`: data, contenders, measurements, report."""
