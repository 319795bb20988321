"""Rollout engines: a package each (component, settings, engine), registered under the kind ``engine``."""
