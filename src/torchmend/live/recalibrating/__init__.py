"""Normalisation statistics measured again: on data or on noise, layer after layer, in order of execution."""
