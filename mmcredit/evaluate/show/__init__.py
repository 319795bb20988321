"""What a person sees of an evaluation: `terminal`, `page` (HTML) and the `examples` on it."""
