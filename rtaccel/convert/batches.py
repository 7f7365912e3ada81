"""Calibration data, whatever it comes as: an iterable of batches, each model inputs, of torch's tensors or any other arrays."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rtaccel.core.errors import FormatError, RtaccelError, ShapeError
from rtaccel.core.progress import counted
from rtaccel.nn.check import describe

PAIR = "pass `(x for x, _ in loader)`"
"""What to do with the batches of a loader that gives labels too."""


def batches_of(op: str, calibration: Any) -> Iterator[Any]:
    """Batches, with tensors in the place of arrays. One tensor or array is one batch.

    Raises ShapeError for what is no iterable of batches, FormatError for an array that is no tensor's and where the iterable
    itself raises.
    """
    if isinstance(calibration, Tensor) or _is_array(calibration):
        return iter((tensors(op, calibration),))
    if isinstance(calibration, (Mapping, str, bytes)) or not isinstance(calibration, Iterable):
        got = f"calibration: {type(calibration).__name__}"
        raise ShapeError(op, got, "an iterable of batches", "Put the batch into a list.")
    return _each(op, calibration)


def _each(op: str, calibration: Iterable[Any]) -> Iterator[Any]:
    count = 0
    try:
        with counted(f"{op}: calibration", total(calibration), "batches") as advance:
            for batch in calibration:
                yield tensors(op, batch)
                count += 1
                advance()
    except RtaccelError:
        raise
    except Exception as error:
        got = f"calibration that raised {type(error).__name__}: {first_line(error)} at batch {count}"
        raise FormatError(op, got, "an iterable of batches", "The error above is that of the iterable.") from error


def total(iterable: Iterable[Any]) -> int | None:
    try:
        return len(iterable)  # type: ignore[arg-type]
    except Exception:  # a generator, or a loader over a stream
        return None


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def _is_array(value: Any) -> bool:
    """NumPy's, or of any library that exchanges arrays by DLPack or as NumPy does."""
    return not isinstance(value, (type, Tensor)) and (
        hasattr(value, "__dlpack__") or hasattr(value, "__array_interface__") or hasattr(value, "__array__")
    )


def tensors(op: str, batch: Any) -> Any:
    """A batch with its arrays as tensors, in tuples, lists and dicts too. Memory is shared where that is possible.

    Raises FormatError for an array of numbers that torch has not.
    """
    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, Mapping):
        return {key: tensors(op, value) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        parts = [tensors(op, part) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
    return _tensor(op, batch) if _is_array(batch) else batch


def _tensor(op: str, array: Any) -> Tensor:
    try:
        return torch.from_dlpack(array)
    except Exception:  # read-only, of negative strides, or of a library without DLPack: NumPy knows how to copy these
        try:
            import numpy

            return torch.from_numpy(numpy.array(array))
        except Exception as error:
            got = f"a {type(array).__name__} of {getattr(array, 'dtype', 'no dtype')}"
            raise FormatError(op, got, "an array of numbers", "Convert it with .astype('float32').") from error


def call_with(model: nn.Module, batch: Any, op: str = "calibration", index: int | None = None) -> None:
    """One call of a model with a calibration batch: a tensor, a tuple of arguments, or a dict of keyword arguments.

    Raises ShapeError for a batch that is no argument list of the model, FormatError for one that the model refuses; a typed
    error from inside is passed on.
    """
    which = "the batch" if index is None else f"batch {index}"
    args, kwargs = (), {}
    if isinstance(batch, Mapping):
        kwargs = {str(name): value for name, value in batch.items()}
    else:
        args = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    check_arguments(op, which, model, args, kwargs)
    try:
        model(*args, **kwargs)
    except RtaccelError:
        raise
    except Exception as error:
        got = f"{which} with {words(batch)}, which the model refuses: {type(error).__name__}: {first_line(error)}"
        raise FormatError(op, got, "inputs of the model", "Pass what the model is called with.") from error


def check_arguments(op: str, which: str, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):
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
    if count > takes:
        step = PAIR[0].upper() + PAIR[1:] + " if the rest are labels."
    else:
        step = "Pass batches with all arguments of the model."
    plural = "" if count == 1 else "s"
    return ShapeError(op, f"{which} has {count} tensor{plural}, the model takes {takes}", "one for each argument", step)


def words(value: Any) -> str:
    """A batch in few words."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {words(v)}" for name, v in list(value.items())[:8]) + "}"
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(words(v) for v in list(value)[:8]) + ")"
    return describe(value)
