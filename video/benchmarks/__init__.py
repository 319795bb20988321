"""Video benchmarks: loaders of their public files, official prompts and scoring."""
