"""Calibration data, whatever it comes as: an iterable of batches, of torch's tensors or of any other arrays."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError, RtaccelError, ShapeError
from rtaccel.core.progress import counted


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
    """NumPy's own arrays not by DLPack: torch ends the process at one that runs backwards, and refuses one that is read-only."""
    numpy = sys.modules.get("numpy")
    try:
        if hasattr(array, "__dlpack__") and (numpy is None or not isinstance(array, numpy.ndarray)):
            return torch.from_dlpack(array)
        whole = importlib.import_module("numpy").asarray(array)
        fits = whole.flags.writeable and all(stride >= 0 for stride in whole.strides)
        return torch.from_numpy(whole if fits else whole.copy())
    except Exception as error:
        got = f"a {type(array).__name__} of {getattr(array, 'dtype', 'no dtype')}"
        raise FormatError(op, got, "an array of numbers", "Convert it with .astype('float32').") from error
