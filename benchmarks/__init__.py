"""What vectuned is worth, measured: `python -m benchmarks` from the repository's root."""
