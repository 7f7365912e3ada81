"""How far two right computations of one model may be apart, from the arithmetic: the model is run in float64, with what each
operation gives moved at random by as much as the format rounds it, and the largest movement of the result is seen."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from tests.support.generators.models import Built

PROBES, SAFETY = 3, 8.0

FLOAT32 = 2.0**-24
"""Of a rounding, relative."""

_LAYERS = ("linear", "matmul", "addmm", "tied", "conv1d", "conv2d", "depthwise1d", "depthwise2d", "causal", "attention", "mha",
           "encoder", "branch", "again", "transposed1d", "transposed2d")  # fmt: skip

STEPS = {
    "float32": 0.0,
    "bfloat16": 2.0**-8,
    "w8a16": 1 / 254,
    "w8a8": 1 / 100,
    "w4a16": 1 / 10,
    "w4a8": 1 / 10,
    "float8": 1 / 12,
}
"""Half a step of a layer's weights and inputs, relative to the largest of them."""


class Noise:
    """Moves results: by roundings of float32 everywhere, by steps of the scheme where a layer with weights gave them."""

    def __init__(self, seed: int, scheme: str) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.step = STEPS[scheme]

    def __call__(self, name: str, x: Any) -> Any:
        layer = self._is_layer(name)
        amount = 2 * self.step if layer else 0.0
        return self._moved(x, amount + 16 * FLOAT32 * (1 + x.shape[-1] ** 0.5) if _is_numbers(x) else 0.0)

    def before(self, name: str, x: Any) -> Any:
        """What a layer reads in steps of its scheme, of the largest number in its row: its sums may cancel, the steps do not."""
        return self._moved(x, self.step) if self.step and self._is_layer(name) else x

    def _is_layer(self, name: str) -> bool:
        return name in _LAYERS or name.startswith(("lstm", "gru"))

    def _moved(self, x: Any, amount: float) -> Any:
        if not _is_numbers(x):
            return x
        largest = x.detach().flatten(1).abs().amax(1) if x.dim() > 1 else x.detach().abs()
        largest = largest.reshape(-1, *[1] * (x.dim() - 1))
        moved = torch.rand(x.shape, generator=self.generator, dtype=torch.float64) * 2 - 1
        return (x + moved.to(x.dtype) * largest * amount + moved.to(x.dtype) * 1e-30).to(x.dtype)


def _is_numbers(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point() and x.numel() > 0 and x.dim() > 0


class Reference:
    """A model in float64, and its noisy versions."""

    def __init__(self, model: Built) -> None:
        self.exact = copy.deepcopy(model).double()

    def bounds(self, given: tuple[Any, ...], scheme: str) -> list[Any]:
        """For each leaf of the result: how far it may be off and the exact result, or None where it has to be the same."""
        wide = pytree.tree_map(lambda t: t.double() if isinstance(t, Tensor) and t.dtype == torch.float32 else t, given)
        with torch.no_grad():
            want = pytree.tree_leaves(self._run(wide, None))
            found: list[Any] = [
                torch.zeros_like(w) if isinstance(w, Tensor) and w.is_floating_point() else None for w in want
            ]
            for seed in range(PROBES):
                for i, moved in enumerate(pytree.tree_leaves(self._run(wide, Noise(seed, scheme)))):
                    if found[i] is not None:
                        found[i] = torch.maximum(found[i], (moved - want[i]).abs().nan_to_num(0.0))
        return [
            None if f is None else (float(f.amax()) * SAFETY + 1e-30 if f.numel() else 0.0, w)
            for f, w in zip(found, want)
        ]

    def _run(self, given: tuple[Any, ...], noise: Noise | None) -> Any:
        self.exact.noise = noise
        return self.exact(*pytree.tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, given))
