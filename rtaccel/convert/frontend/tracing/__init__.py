"""What stands around a trace of a model: which modules are called, what it must not touch, and what it need not ask."""
