"""SPAE probes. Read `strategy`, then `reasoning_steps` (where steps end), `probes` (asking for the answer there) over
`extended_prompt`."""

from mmcredit.rollout.strategies.spae_probes.strategy import SPAEProbes

__all__ = ["SPAEProbes"]
