"""torch's own sparse tensors, for one linear layer: what a user has without us."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

import rtaccel as rt


def torch_sparse(layer: nn.Linear, x: Tensor, pattern: rt.Sparsity) -> dict[str, Callable[[], object]]:
    """Name -> a call that computes the layer from a CSR tensor, and from a BSR one where the pattern has blocks.

    The products are checked against the dense layer first; one that torch does not compute here is left out.
    """
    warnings.filterwarnings("ignore", message="Sparse (CSR|BSR)")
    weight = layer.weight.detach()
    made = {"torch CSR": weight.to_sparse_csr()}
    if isinstance(pattern, rt.BlockSparse) and pattern.block[0] == pattern.block[1]:
        made["torch BSR"] = weight.to_sparse_bsr(pattern.block)
    bias, columns = layer.bias.detach()[:, None], x.T.contiguous()
    want = layer(x).detach().T

    def call(sparse: Tensor) -> Callable[[], object]:
        return lambda: (
            torch.sparse.addmm(bias, sparse, columns) if sparse.layout == torch.sparse_csr else sparse @ columns
        )

    found = {}
    for name, sparse in made.items():
        product = call(sparse)
        try:
            got = product()
        except RuntimeError:
            continue
        assert isinstance(got, Tensor)
        torch.testing.assert_close(got if name == "torch CSR" else got + bias, want, rtol=1e-3, atol=1e-3)
        found[name] = product
    return found
