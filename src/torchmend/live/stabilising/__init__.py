"""Changes to a model and its optimizer so that mixed precision no longer overflows: planned, told, and taken back."""
