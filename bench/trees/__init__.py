"""Ensembles of decision trees, ours beside others: python -m bench.trees"""
