"""SciPy's compressed rows: the bare routine behind `A @ x`, which adds to what the result holds, here the bias."""

from __future__ import annotations

import numpy as np

from bench.peers.base import SPARSE, Job, Peer, Runner

PACKAGES = ("scipy",)
PEERS = (Peer("scipy_csr", "SciPy CSR", "scipy_sparse", "csr", SPARSE),)


def load(job: Job, variant: str) -> Runner:
    from scipy.sparse import _sparsetools, csr_matrix
    from torch import nn

    from bench.peers.models import BY_NAME

    layer = BY_NAME[job.model].module()
    assert isinstance(layer, nn.Linear)
    weight, bias = csr_matrix(layer.weight.numpy()), layer.bias.numpy().copy()
    x, y = job.data().x[0].reshape(-1).copy(), np.empty_like(bias)
    product = _sparsetools.csr_matvec
    rows, columns = weight.shape

    def call() -> None:
        y[:] = bias
        product(rows, columns, weight.indptr, weight.indices, weight.data, x, y)

    def step(given: np.ndarray) -> tuple[np.ndarray, ...]:
        x[:] = given.reshape(-1)
        call()
        return (y.reshape(1, -1).copy(),)

    return Runner(step, call, "computes what is not zero")
