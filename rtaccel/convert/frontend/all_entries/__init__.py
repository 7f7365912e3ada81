"""Entries that a mask chooses, as all entries beside a note of those that count."""
