"""Backends of `video.decode`: PyAV (default), decord (in a process that can be killed), torchcodec where it imports."""
