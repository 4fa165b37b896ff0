"""Bytes <-> tensors: one file a format. Nothing here ever imports or calls what a file names."""
