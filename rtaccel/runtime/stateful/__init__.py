"""Models that keep state of their own from call to call: compiled with it, compared over several calls."""
