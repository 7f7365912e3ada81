"""A compiled model outside of this process: as a file that other runtimes read."""
