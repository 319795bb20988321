"""From answers to figures: `robustness` (accuracy per corruption), then `results` (everything an evaluation found)."""
