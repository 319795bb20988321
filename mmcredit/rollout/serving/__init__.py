"""Rollouts over HTTP: `wire` (what travels), `host` (a model and its engine), `service` (the HTTP side), `command`.

The client is the engine `server` (`mmcredit.rollout.engines.server`).
"""
