"""Rollout engines: one module each, registered under the kind ``engine``."""
