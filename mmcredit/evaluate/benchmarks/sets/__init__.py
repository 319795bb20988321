"""The benchmarks, one file each, registered under the kind ``benchmark``."""
