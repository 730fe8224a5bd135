"""Benchmarks: commands that measure the running gateway and print the README's tables."""
