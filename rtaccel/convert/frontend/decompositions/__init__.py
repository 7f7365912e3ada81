"""Calls decomposed into simpler ones by this project itself, where torch has no decomposition or another one."""
