"""What a call does to its inputs: calls that find other data each time are not samples of one thing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from rtaccel.core.errors import FormatError

_EDGE_BYTES = 8 << 20
"""Of a longer tensor the first and last so many bytes are looked at."""


def fingerprint(value: Any) -> str:
    """A hash of the numbers and texts in a nest of tensors, arrays, lists, tuples, mappings and plain values.

    Objects of other types count as their type alone: their inside is not looked at.
    """
    digest = hashlib.blake2b(digest_size=16)
    _feed(digest, value, 0)
    return digest.hexdigest()


def _feed(digest: Any, value: Any, depth: int) -> None:
    digest.update(type(value).__name__.encode())
    if isinstance(value, (int, float, complex, str, type(None))):
        digest.update(repr(value).encode())
    elif isinstance(value, Mapping):
        _feed(digest, [*value.items()] if depth < 8 else None, depth + 1)
    elif isinstance(value, (list, tuple)):
        for item in value if depth < 8 else ():
            _feed(digest, item, depth + 1)
    else:
        for part in _bytes_of(value):
            digest.update(part)


def _bytes_of(value: Any) -> list[Any]:
    if hasattr(value, "detach") and hasattr(value, "untyped_storage"):
        return _bytes_of_tensor(value)
    try:
        view = memoryview(value)
    except TypeError:
        return []
    return _edges(view.cast("B")) if view.c_contiguous and view.nbytes else [view.tobytes()]


def _bytes_of_tensor(tensor: Any) -> list[Any]:
    import torch

    if tensor.layout != torch.strided or tensor.device.type not in ("cpu", "cuda"):
        return []
    flat = tensor.detach().resolve_conj().resolve_neg().reshape(-1)
    edge = max(1, _EDGE_BYTES // flat.element_size())
    parts = [flat] if len(flat) <= 2 * edge else [flat[:edge], flat[-edge:]]
    return [memoryview(part.cpu().contiguous().view(torch.uint8).numpy()) for part in parts]


def _edges(view: memoryview) -> list[memoryview]:
    return [view] if len(view) <= 2 * _EDGE_BYTES else [view[:_EDGE_BYTES], view[-_EDGE_BYTES:]]


def changes(given: str, warm: str, after: str) -> tuple[str | None, str | None]:
    """(note, reason to withhold a PASS) from the fingerprints of the inputs as given, after warm-up and at the end."""
    if given == warm == after:
        return None, None
    if warm == after:
        return (
            "the call changes its inputs: what was timed had the inputs that it leaves, not those given; " + _SETUP,
            None,
        )
    return None, "each call changes its inputs, so no two calls had the same; " + _SETUP


_SETUP = "pass setup= that returns fresh inputs for every call"


def score(given: Any, result: Any, argument: str) -> float | None:
    """`error=` or `metric=` as a number: as given, or of what the call returned where it is a function.

    Raises FormatError where there is nothing to judge, or no number comes of it.
    """
    if not callable(given):
        return None if given is None else float(given)
    if result is None:
        next_step = f"Return the result from fn, or compute the {argument} yourself and pass the number."
        raise FormatError("measure", "fn that returns None", f"a result that {argument}= can judge", next_step)
    found = given(result)
    try:
        number = float(found)
    except (TypeError, ValueError, OverflowError) as problem:
        got = f"{argument}= that returned {type(found).__name__}"
        raise FormatError("measure", got, "one number", "Reduce it, for example by max().") from problem
    if argument == "error" and number < 0:
        raise FormatError("measure", f"error= that returned {number:g}", "0 or above", "Return the absolute error.")
    return number
