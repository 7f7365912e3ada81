"""The state dict of a compiled model: plain buffers, their structure, and checks before anything changes."""
