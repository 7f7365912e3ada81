"""A request, decoded: what REST and gRPC both come to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from rtaccel.core.errors import FormatError
from rtaccel.serve.v2.refusals import NotServed
from rtaccel.serve.v2.shared_memory import Places

Sequence = int | str
"""What names a sequence: a whole number that is not 0, or a text."""

HEADER_DEADLINE = "x-deadline-us"
"""Header (REST) and metadata (gRPC): the answer is of use for so many microseconds from the arrival of the request."""


class Parameters(NamedTuple):
    """Those parameters of a request that the server heeds; it ignores all others.

    timeout_us: the answer is of use for so long; None: for ever.
    """

    sequence: Sequence | None = None
    start: bool = False
    end: bool = False
    timeout_us: int | None = None


class Request(NamedTuple):
    """For one model. inputs: in its order. outputs: numbers of those that are wanted. places: where these are to
    be written."""

    inputs: tuple[np.ndarray, ...]
    outputs: tuple[int, ...]
    parameters: Parameters
    id: str = ""
    places: Places = ()


NONE = Parameters()


def parameters_of(given: Mapping[str, Any]) -> Parameters:
    """Raises FormatError for those that there are not, NotServed for shared memory and the like."""
    if not given:
        return NONE
    sequence = given.get("sequence_id")
    if isinstance(sequence, bool) or not isinstance(sequence, (int, str, type(None))):
        raise FormatError("infer", f"sequence_id {str(sequence)[:40]!r}", "a whole number or a text", "Pass one.")
    if isinstance(sequence, str) and len(sequence) > 128:
        raise FormatError("infer", f"a sequence_id of {len(sequence)} characters", "128 at most", "Pass a shorter one.")
    if isinstance(sequence, int) and not 0 <= sequence < 1 << 64:
        raise FormatError("infer", "a sequence_id of more than 64 bits", "a uint64", "Pass a smaller one.")
    flags = [given.get(f"sequence_{what}", False) for what in ("start", "end")]
    if not all(isinstance(flag, bool) for flag in flags):
        raise FormatError("infer", f"sequence_start, sequence_end = {flags}", "true or false", "Pass truth values.")
    return Parameters(sequence or None, flags[0], flags[1], timeout_of(given.get("timeout")))


def timeout_of(given: Any) -> int | None:
    """Of the parameter `timeout` or the header: microseconds; 0 is none, as in Triton. Raises FormatError."""
    if isinstance(given, (str, bytes)) and len(given) < 20 and given.isascii() and given.isdigit():
        given = int(given)
    if given is None or (given == 0 and not isinstance(given, bool)):
        return None
    if isinstance(given, bool) or not isinstance(given, int) or not 0 < given < 1 << 53:
        raise FormatError("infer", f"a timeout {str(given)[:40]!r}", "microseconds, a whole number", "Pass one.")
    return given


def sooner(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)


def refuse_tensor_parameters(given: Mapping[str, Any]) -> None:
    """Raises NotServed for what a tensor of a request may ask for and this server does not have."""
    if given.get("classification"):
        raise NotServed("infer", "classification of a tensor", "whole tensors", "Choose classes in the client.")
