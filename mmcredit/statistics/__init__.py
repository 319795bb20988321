"""Statistics of a batch that sampling and credit both use: `entropy_scale` (HAPO), `variance_selection` (D3S)."""
