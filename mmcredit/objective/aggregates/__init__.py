"""Aggregation weights, one file each."""
