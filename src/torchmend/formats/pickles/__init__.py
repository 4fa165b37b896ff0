"""Pickles read as data: opcodes -> inert records -> named tensors. Nothing is imported, nothing is called."""
