"""Attacks on a bundle while it is loaded and used: `python -m vqrae.benchmarks.studies.attacks BUNDLE`."""
