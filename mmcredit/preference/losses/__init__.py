"""Preference losses, one file each."""
