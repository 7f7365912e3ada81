"""Keeping a value for the next call, as a state of the plan."""
