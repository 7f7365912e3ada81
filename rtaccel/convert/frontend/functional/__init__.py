"""An exported program as calls that give new values: nothing in place, no view that is written through."""
