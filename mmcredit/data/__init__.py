"""Samples: where they come from, and what is wrong with them.

Read `sample` (the value), `sources/` (one file per kind of source; `base` first), `columns`, `conventions`, `values`
and `messages` (from a row to a sample), `media`, `dropped` (why a sample is left out), `order`. `benchmarks/` reads
public benchmark files, `scenes/` makes pictures with questions.
"""
