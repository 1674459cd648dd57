"""Benchmarks: how fast, how large and how faithful each deployed tokenizer is, in one table that a sceptic can trust.

Measured in interleaved rounds after a warm-up; medians with their spread; fidelity in the same row as speed.
"""
