"""Calls of convolutions, pools and folds, taken apart."""
