"""What checkpoint files are called. Names only pick files out of folders; formats are told by content."""

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".npz")
"""What checkpoint files are usually called."""

SIDECAR_ENDING = ".repair.bin"
"""What the name of the file ends with that holds the bytes that a repair replaced."""


def is_checkpoint_name(name: str) -> bool:
    """Return whether a file is named like a checkpoint: not hidden, and not what a repair leaves beside it."""
    return name.endswith(SUFFIXES) and not name.startswith(".") and not name.endswith(SIDECAR_ENDING)
