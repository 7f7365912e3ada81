"""What a user writes by hand with numba: all layers of an MLP in one compiled function, fast-math dot products."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.peers.base import MLPS, Job, LeftOut, Peer, Runner

PACKAGES = ("numba",)
PEERS = (
    Peer("numba_mlp", "numba, fused by hand", "numba_mlp", "mlp", (*MLPS, "lin_1x256", "lin_1x1024", "lin_1x4096")),
)


def load(job: Job, variant: str) -> Runner:
    import numba
    from torch import nn

    from bench.peers.models import BY_NAME

    module = BY_NAME[job.model].module()
    layers: list[Any] = list(module.children()) or [module]
    if any(isinstance(layer, nn.BatchNorm1d) for layer in layers):
        raise LeftOut("BatchNorm would have to be folded by hand; see mlp_ad for the same sizes")
    kinds = {nn.ReLU: 1, nn.ELU: 2, nn.Softmax: 3}
    linear = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear)]
    weights = tuple(np.ascontiguousarray(layers[i].weight.numpy()) for i in linear)
    biases = tuple(layers[i].bias.numpy().copy() for i in linear)
    after = [layers[i + 1] if i + 1 < len(layers) else None for i in linear]
    activations = np.array([kinds.get(type(layer), 0) for layer in after])
    widest = max(w.shape[0] for w in weights)

    @numba.njit(fastmath=True, boundscheck=False)
    def run(x, y, weights, biases, activations, even, odd):  # type: ignore[no-untyped-def]
        source = x
        last = len(weights) - 1
        for i in range(len(weights)):
            w, b, kind = weights[i], biases[i], activations[i]
            target = y if i == last else (even if i % 2 == 0 else odd)
            for n in range(w.shape[0]):
                total = np.float32(0)
                for k in range(w.shape[1]):
                    total += w[n, k] * source[k]
                total += b[n]
                if kind == 1:
                    total = max(total, np.float32(0))
                target[n] = total
            if kind == 2:
                for n in range(w.shape[0]):
                    if target[n] < 0:
                        target[n] = np.exp(target[n]) - np.float32(1)
            if kind == 3:
                top, total = target[0], np.float32(0)
                for n in range(w.shape[0]):
                    top = max(top, target[n])
                for n in range(w.shape[0]):
                    target[n] = np.exp(target[n] - top)
                    total += target[n]
                for n in range(w.shape[0]):
                    target[n] /= total
            source = target

    x = np.zeros(weights[0].shape[1], np.float32)
    y = np.zeros(weights[-1].shape[0], np.float32)
    even, odd = np.zeros(widest, np.float32), np.zeros(widest, np.float32)

    def call() -> None:
        run(x, y, weights, biases, activations, even, odd)

    def step(given: np.ndarray) -> tuple[np.ndarray, ...]:
        np.copyto(x, given.reshape(-1))
        call()
        return (y.copy(),)

    return Runner(step, call, "arrays given")
