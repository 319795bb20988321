"""Frozen rollouts, and what other credit methods would have made of them (`mmcredit replay`)."""
