"""Verifiers: judges outside of the policy that say which parts of a response are wrong, while the run goes on.

Read `base` (what a verifier is given, what it answers, what a config names), then `background` (asking as soon as
responses exist, waiting where credit needs the answer). Verifiers themselves come from other packages.
"""
