"""Compiled models as files, and what runs them without torch."""
