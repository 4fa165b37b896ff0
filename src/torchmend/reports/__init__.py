"""Diagnoses and repairs -> text and JSON. Pure: returns strings and plain data, prints nothing."""
