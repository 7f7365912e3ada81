"""The arguments of one call, with which a model is captured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from rtaccel.convert.frontend.batches import signature_of
from rtaccel.convert.frontend.checks import check_weights
from rtaccel.convert.frontend.exported.containers import know_dataclasses
from rtaccel.core.errors import ShapeError, UnsupportedProblem


def shared_batch(args: tuple[Any, ...]) -> int | None:
    """The first dimension of all tensors among the arguments; None where they share none, or it is 0."""
    tensors = [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, Tensor)]
    batches = {t.shape[0] if t.dim() else None for t in tensors}
    return next(iter(batches)) or None if len(batches) == 1 else None


def _without_modes(model: nn.Module) -> set[nn.Module]:
    """The parts that torch.export made: their graph is of one mode already, and their `eval` raises."""
    made = [m for m in model.modules() if isinstance(m, fx.GraphModule) and "eval" in vars(m)]
    return {part for module in made for part in module.modules()}


def _check_numbers(model: nn.Module, args: Sequence[Any]) -> None:
    """Raises typed errors for tensors of the example or the model without numbers, or whose numbers lie in no plain memory."""
    for tensor in pytree.tree_leaves(args):
        if not isinstance(tensor, Tensor) or tensor.layout == torch.jagged:
            continue
        if tensor.is_nested:
            got, next_step = "a nested tensor", "Pad it, as torch.nested.to_padded_tensor does."
        elif tensor.layout != torch.strided:
            got, next_step = f"a tensor of {tensor.layout}", "Convert it with .to_dense()."
        elif tensor.is_meta:
            got, next_step = "a tensor on the meta device", "Make one with numbers, as torch.randn does."
        else:
            continue
        raise ShapeError("compile", f"{got} in the example", "dense tensors with numbers in memory", next_step)
    check_weights("compile", model)


def check_example(model: nn.Module, args: Sequence[Any] | Tensor) -> tuple[Any, ...]:
    """Arguments as a tuple; errors for what no compiled model could be right about."""
    if isinstance(args, Tensor):
        args = (args,)
    if not isinstance(model, nn.Module):
        raise UnsupportedProblem(
            "compile", type(model).__name__, "a torch.nn.Module", "Wrap the function in a module's forward."
        )
    if not isinstance(args, (tuple, list)):
        raise ShapeError("compile", type(args).__name__, "a tuple of example inputs", "Pass rt.compile(model, (x,)).")
    know_dataclasses(args)
    without_modes = _without_modes(model)
    if model.training and model not in without_modes:
        raise UnsupportedProblem(
            "compile",
            "a model in training mode",
            "one in eval mode",
            "Call model.eval() first: dropout and BatchNorm differ.",
        )
    signature = signature_of(model)
    try:
        if signature is not None:
            signature.bind(*args)
    except TypeError as error:
        raise ShapeError(
            "compile", f"{len(args)} example inputs: {error}", "arguments that the model's forward takes",
            "Pass the arguments of one call, in order.",
        ) from error  # fmt: skip
    _check_numbers(model, args)
    training = [name for name, module in model.named_modules() if module.training and module not in without_modes]
    if training:
        raise UnsupportedProblem(
            "compile",
            f"{', '.join(training[:4])}{' ...' if len(training) > 4 else ''} in training mode inside a model in eval mode",
            "every module in eval mode",
            "Call model.eval() last, after modules were added or set to train.",
        )
    return tuple(args)
