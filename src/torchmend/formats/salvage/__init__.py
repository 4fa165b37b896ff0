"""Tolerant readers: what is left of a file that was cut off or lost its directory."""
