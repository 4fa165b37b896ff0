"""The guard: a training step happens whole, or not at all. Policy is pure; what touches torch only senses and undoes."""
