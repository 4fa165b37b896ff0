"""Everything that touches torch: models and state dicts in memory as sources, and their repair in place."""
