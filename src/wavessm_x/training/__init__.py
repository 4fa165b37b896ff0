"""The training loop, its checkpoints, its validation, and how torchmend guards it."""
