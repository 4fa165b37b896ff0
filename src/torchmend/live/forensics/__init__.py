"""What went wrong in a step: run again under probes, narrowed down to the sample, kept as a capsule, replayed."""
