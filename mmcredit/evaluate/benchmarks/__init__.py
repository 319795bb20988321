"""Multimodal benchmarks: official prompts, official extraction and scoring. Their files are read by
`mmcredit.data.benchmarks`.

Read `base` (what a benchmark is), one of `sets/`, then how a response is judged: `scoring` (the verdict), `steps` (what
judging may ask), `referee` and `judge` (who answers), `rules/` (shared rules of text), and `summary` (adding up).
"""
