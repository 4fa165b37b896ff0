"""Diagnose and repair checkpoint files."""
