"""Models over windows become models of one time step."""
