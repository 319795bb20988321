"""Extraction and comparison rules that several benchmarks share: pure functions of text."""
