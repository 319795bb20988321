"""Sampling strategies: what happens around plain sampling. One file per strategy."""
