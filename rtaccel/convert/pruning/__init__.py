"""Pruning of a model's layers: what each loses, how sparsity is spread over them, and the sparse layers that replace them.

Data: nn.Module + calibration -> input statistics -> kept weights (prune) -> the same nn.Module and a report.
"""
