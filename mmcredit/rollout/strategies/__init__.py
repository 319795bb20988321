"""Sampling strategies: what happens around plain sampling. A file each, a package where one has parts of its own.

Read `base` (what a strategy is), then what several use: `outcomes` (what groups earned), `continuations` (fresh
responses from points inside others).
"""
