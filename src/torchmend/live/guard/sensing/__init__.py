"""What the guard senses: in the one read of each step, in sampled steps, and in its periodic check."""
