"""The image corruptions, one family a file."""
