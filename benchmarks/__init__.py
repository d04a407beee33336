"""Benchmarks of vectuned; run `python -m benchmarks` in the root of the repository."""
