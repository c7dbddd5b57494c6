"""Measurements, one module each: `python -m benchmarks.NAME`. Each prints a table of ratios and writes JSON."""
