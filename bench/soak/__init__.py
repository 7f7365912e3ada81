"""Runs that go on for long, with faults, and say what was lost: nothing is to be."""
