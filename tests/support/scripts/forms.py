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
    """The model, in eval mode, in each form that torch can make of it: tracing and freezing have faults of their own."""
    found: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated
        scripted = torch.jit.script(model.eval())
        for name, make in _FORMS.items():
            try:
                found[name] = make(scripted, model, args)
            except RuntimeError as error:
                if "report a bug to PyTorch" not in str(error):
                    raise
    return found


def _traced(model: nn.Module, args: tuple[Any, ...]) -> Any:
    return torch.jit.trace(model, args, check_trace=False)


_FORMS: dict[str, Callable[[Any, nn.Module, tuple[Any, ...]], Any]] = {
    "scripted": lambda scripted, model, args: scripted,
    "loaded": lambda scripted, model, args: loaded(scripted),
    "traced": lambda scripted, model, args: _traced(model, args),
    "traced, loaded": lambda scripted, model, args: loaded(_traced(model, args)),
    "frozen": lambda scripted, model, args: torch.jit.freeze(scripted),
    "frozen, loaded": lambda scripted, model, args: loaded(torch.jit.freeze(scripted)),
    "traced, frozen": lambda scripted, model, args: torch.jit.freeze(_traced(model, args)),
    "optimized": lambda scripted, model, args: torch.jit.optimize_for_inference(scripted),
}
