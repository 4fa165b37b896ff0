"""`torchmend.Guard` in other people's loops: `lightning`, `transformers`, `accelerate`. Translation only.

Importing this package imports none of them; each is a module of its own, which needs its library.
"""
