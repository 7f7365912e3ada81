"""The forms in which TorchScript has a model."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def loaded(script: Any) -> Any:
    """As from a file."""
    buffer = io.BytesIO()
    torch.jit.save(script, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


def forms_of(model: nn.Module, args: tuple[Any, ...]) -> dict[str, Any]:
    """The model, in eval mode, in each form that torch can make of it: freezing has faults of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated
        scripted = torch.jit.script(model.eval())
        traced = torch.jit.trace(model, args, check_trace=False)
        found = {"scripted": scripted, "loaded": loaded(scripted), "traced": traced, "traced, loaded": loaded(traced)}
        for name, make in _LATER.items():
            try:
                found[name] = make(scripted, traced)
            except RuntimeError as error:
                if "report a bug to PyTorch" not in str(error):
                    raise
    return found


_LATER: dict[str, Callable[[Any, Any], Any]] = {
    "frozen": lambda scripted, traced: torch.jit.freeze(scripted),
    "frozen, loaded": lambda scripted, traced: loaded(torch.jit.freeze(scripted)),
    "traced, frozen": lambda scripted, traced: torch.jit.freeze(traced),
    "optimized": lambda scripted, traced: torch.jit.optimize_for_inference(scripted),
}
