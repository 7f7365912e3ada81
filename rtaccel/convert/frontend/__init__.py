"""A model exported to a graph of nodes over stored values: torch.export, its guards and state, and where tensors lie.

Data: nn.Module -> ExportedGraph (ATen calls) -> OpGraph (nodes, buffers, views). Which operator a call becomes is handed in.
"""
