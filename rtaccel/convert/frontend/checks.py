"""What `quantize_` and `sparsify_` ask of a model and of their options, before they look at its layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from rtaccel.core.errors import FormatError, UnsupportedProblem

_ALIKE: tuple[type[nn.Module], ...] = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding, nn.Identity, nn.ReLU, nn.Sequential, nn.ModuleList, nn.ModuleDict,
)  # fmt: skip
"""Modules that compute the same in training mode."""


def check_no_script(op: str, model: Any) -> None:
    """Raises UnsupportedProblem for a module of TorchScript, whose layers are nodes of a graph and cannot be replaced."""
    if isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedProblem(
            op, f"{getattr(model, 'original_name', '')}, a module of TorchScript", "a model of Python, with layers to replace",
            "Pass it to rt.compile with a scheme or sparsity, or call this on the Python model before torch.jit.",
        )  # fmt: skip


def check_model(op: str, model: Any) -> None:
    """Raises UnsupportedProblem for what is no module, for one of TorchScript, or one in training mode."""
    check_no_script(op, model)
    if not isinstance(model, nn.Module):
        raise UnsupportedProblem(op, type(model).__name__, "an nn.Module", "Pass the model itself.")
    if model.training:
        raise UnsupportedProblem(op, "a model in training mode", "one in eval mode", "Call model.eval() first.")
    check_weights(op, model, meta=True)


def check_weights(op: str, model: nn.Module, meta: bool = False) -> None:
    """Raises UnsupportedProblem, naming the tensor, for weights that have no numbers yet: lazy ones, or on the meta device.

    meta: the caller keeps layers on the meta device as they are, and says so.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            got, next_step = f"{name}, which a lazy layer has not made yet", "Call the model once before."
        elif tensor.is_meta and not meta:
            got, next_step = f"{name} on the meta device", "Call model.to_empty(device='cpu'), and load its state dict."
        else:
            continue
        raise UnsupportedProblem(op, got, "weights with numbers in memory", next_step)


def check_modes(op: str, model: nn.Module) -> None:
    """Raises UnsupportedProblem, naming the module, where calibration would run a part of the model in training mode: its
    dropout would change the ranges, and its BatchNorm by them."""
    for name, module in model.named_modules():
        if module.training and type(module) not in _ALIKE:
            got = f"{name}, a {type(module).__name__} in training mode"
            raise UnsupportedProblem(op, got, "all modules in eval mode for calibration", "Call model.eval() first.")


def check_options(op: str, filter_fn: Any, rows: Any, *flags: Any) -> None:
    """Raises FormatError for a filter that cannot be called, rows that are no count, flags that are neither true nor false."""
    if filter_fn is not None and not callable(filter_fn):
        got = f"filter_fn={filter_fn!r}"
        raise FormatError(op, got, "a function of (module, name)", "Pass lambda module, name: name != 'head'.")
    if rows is not None and (type(rows) is not int or not 1 <= rows <= 2**20):
        raise FormatError(op, f"rows={rows!r}", f"a number of rows from 1 to {2**20}", "Pass the batch to time with.")
    for flag in flags:
        if type(flag) is not bool:
            raise FormatError(op, f"{flag!r} for a flag", "True or False", "Pass one of these, by name.")
