"""Loops over time steps that Python wrote out, of which a stream computes one body a step: cells, filters, any recurrence."""
