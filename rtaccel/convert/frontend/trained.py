"""Layers that trained with fake quantization, while their model is captured: the torch layers, and the numbers beside them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from rtaccel.nn.qat.layers import FakeQuant, TrainedNumbers


@contextmanager
def as_torch_layers(model: nn.Module) -> Iterator[dict[str, TrainedNumbers]]:
    """Inside, these layers of the model compute in float32. Gives their numbers, under all the names of each."""
    found = [(name, m) for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, FakeQuant)]
    numbers = {name: layer.numbers() for name, layer in found}
    modes = [(layer, layer.__dict__["mode"]) for _, layer in found]
    try:
        for layer, _ in modes:
            layer.__dict__["mode"] = "float"
        yield numbers
    finally:
        for layer, mode in reversed(modes):
            layer.__dict__["mode"] = mode
