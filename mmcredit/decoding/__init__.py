"""Decoding for tests and use, not for RL: two models that share the work, and attention to a part of the cache.

Each is named to `mmcredit evaluate --decoding`. What a policy is trained on must be sampled from that policy alone,
with the attention that it is scored with: the run config refuses these names as rollout engines.
"""
