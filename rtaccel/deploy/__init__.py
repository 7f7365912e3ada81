"""A compiled model outside of this process: as files that run without torch, and that other runtimes read."""
