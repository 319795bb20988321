"""Ways of decoding, one file each."""
