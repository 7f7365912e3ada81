"""The arguments of one call, with which a model is captured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from rtaccel.convert.frontend.batches import signature_of
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
    training = [name for name, module in model.named_modules() if module.training and module not in without_modes]
    if training:
        raise UnsupportedProblem(
            "compile",
            f"{', '.join(training[:4])}{' ...' if len(training) > 4 else ''} in training mode inside a model in eval mode",
            "every module in eval mode",
            "Call model.eval() last, after modules were added or set to train.",
        )
    return tuple(args)
