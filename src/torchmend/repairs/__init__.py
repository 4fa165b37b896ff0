"""Plan repairs: which values to write where, from which rung of the ladder. Pure; writes nothing."""
