"""Clip kinds, one file each."""
