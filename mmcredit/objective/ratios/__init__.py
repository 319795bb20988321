"""Ratio kinds, one file each."""
