"""Calls of a model with calibration batches, and what is said of a batch that is none of its inputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from rtaccel.core.errors import FormatError, RtaccelError, ShapeError
from rtaccel.nn.arrays import batches_of, first_line, tensors
from rtaccel.nn.check import describe

__all__ = ["batches_of", "call_with", "first_line", "miscounted", "tensors", "words"]

PAIR = "pass `(x for x, _ in loader)`"
"""What to do with the batches of a loader that gives labels too."""


def call_with(model: nn.Module, batch: Any, op: str = "calibration", index: int | None = None) -> None:
    """One call of a model with a calibration batch: a tensor, a tuple of arguments, or a dict of keyword arguments.

    Raises ShapeError for a batch that is no argument list of the model, FormatError for one that the model refuses; a typed
    error from inside is passed on.
    """
    which = "the batch" if index is None else f"batch {index}"
    if batch is None or isinstance(batch, (str, bytes, int, float)):
        expected = "each batch a tensor, a tuple of arguments or a dict of them"
        raise ShapeError(op, f"{which}, a {type(batch).__name__}", expected, "Pass what the model is called with.")
    args, kwargs = (), {}
    if isinstance(batch, Mapping):
        kwargs = {str(name): value for name, value in batch.items()}
    else:
        args = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    check_arguments(op, "the batch", model, args, kwargs)
    try:
        model(*args, **kwargs)
    except RtaccelError:
        raise
    except Exception as error:
        got = f"{which} with {words(batch)}, which the model refuses: {type(error).__name__}: {first_line(error)}"
        raise FormatError(op, got, "inputs of the model", "Pass what the model is called with.") from error


def signature_of(model: nn.Module) -> inspect.Signature | None:
    """Of the model's forward; None where Python knows none, as of a module of TorchScript."""
    try:
        return inspect.signature(model.forward)
    except (TypeError, ValueError):
        return None


def check_arguments(op: str, which: str, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    signature = signature_of(model)
    if signature is None:
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        takes = sum(p.kind in kinds for p in signature.parameters.values())
        raise miscounted(op, which, len(args), takes, str(error) if kwargs else "") from error


def miscounted(op: str, which: str, count: int, takes: int, why: str = "") -> ShapeError:
    """For a batch of so many parts where the model takes another number."""
    if why:
        return ShapeError(
            op, f"{which} as keyword arguments: {why}", "those of the model's forward", "Rename the keys."
        )
    step = f"If the rest are labels, {PAIR}." if count > takes else "Pass batches with all arguments of the model."
    plural = "" if count == 1 else "s"
    return ShapeError(op, f"{which} has {count} tensor{plural}, the model takes {takes}", "one for each argument", step)


def words(value: Any) -> str:
    """A batch in few words."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {words(v)}" for name, v in list(value.items())[:8]) + "}"
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(words(v) for v in list(value)[:8]) + ")"
    return describe(value)
