"""The guard: a training step happens whole, or not at all. The policy is pure; the rest senses and undoes."""
