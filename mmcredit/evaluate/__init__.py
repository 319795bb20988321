"""Accuracy of a model: on the held-out questions of a run, on benchmarks, under image corruptions.

Read `accuracy` (questions in, judged answers out) with `pass_at_k` and `votes`, and `held_out` (a model outside of a
run). `benchmarks/` scores public benchmarks. The command: `command` and `options`, over `ask/` (questions and their
answers), `judge/` (figures), `show/` (what a person sees).
"""
