"""Benchmarks of the embedding tables, one part a file."""
