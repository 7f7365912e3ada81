"""The networks, one file per domain; each has `ENTRIES`."""
