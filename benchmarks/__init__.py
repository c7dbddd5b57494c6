"""What `make bench` measures, one module each: `python -m benchmarks.NAME` prints ratios and writes JSON."""
