"""Recursive least squares: one step of an online linear model."""
