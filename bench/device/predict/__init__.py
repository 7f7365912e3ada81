"""Predictions before a card, beside `bench.device.predictions`: what they are held against, and what has none."""
