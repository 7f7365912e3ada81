"""Operator tree_ensemble: sums over decision trees."""
