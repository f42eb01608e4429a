"""Benchmarks of the package against baselines."""
