"""How to compute each layer, chosen under limits of time, bytes and task metric, and proved by measurement."""
