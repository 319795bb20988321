"""Rewards: extraction of answers, the components that judge them, and the worker processes in which they run."""
