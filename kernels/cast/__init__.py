"""Half precision at the edge of a plan."""
