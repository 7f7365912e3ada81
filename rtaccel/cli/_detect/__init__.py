"""Helpers of `rtaccel detect`."""
