"""Running compiled models."""
