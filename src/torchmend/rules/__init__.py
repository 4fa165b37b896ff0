"""Pure functions: names and shapes -> roles and layers; measures -> findings with stable codes."""
