"""Parts of `rtaccel fit`."""
