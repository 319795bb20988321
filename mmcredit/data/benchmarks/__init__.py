"""Multimodal benchmarks: local files in their public format, official prompts, official extraction and scoring."""
