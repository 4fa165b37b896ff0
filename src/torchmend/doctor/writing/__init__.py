"""Layouts in which tensors are written: bytes out, one bounded piece after the other, without PyTorch."""
