"""What the native side of slots and loops refuses, as typed errors."""

from __future__ import annotations

from typing import NoReturn

from rtaccel.core.errors import FormatError, UnsupportedProblem

OLDER, FUTURE, TAKEN, HAS_NAN, BAD = -1, -2, -3, -4, -5
"""rta_latest_error of native/realtime/rta_latest.h."""


def raise_looped() -> NoReturn:
    """A call of a model whose plan a loop runs on its own thread."""
    raise UnsupportedProblem(
        "call",
        "a model that a running loop has",
        "a model of its own for each thread",
        "Stop the loop first, or compile the model once more for calls beside it.",
    )


def refuse_side(op: str, side: str, name: str, closed: bool) -> NoReturn:
    """`put` or `get` where the side, "writer" or "reader", is not this handle's."""
    if closed:
        raise UnsupportedProblem(op, "a closed slot", "an open one", "Make it again, or do not close it before.")
    raise UnsupportedProblem(
        op,
        f"slot {name} whose {side} is another process, handle or loop",
        f"one {side} that lives",
        "Stop or close the other one; for several readers make the slot with readers='many'.",
    )


def refuse_stamp(op: str, stamp_ns: int, now_ns: int) -> NoReturn:
    raise FormatError(
        op,
        f"stamp_ns={stamp_ns}, {(stamp_ns - now_ns) * 1e-3:.1f} us after now",
        "when the value was measured",
        "Stamps are of time.monotonic_ns() on this machine; convert those of other clocks.",
    )


def refuse_nan(op: str, name: str) -> NoReturn:
    raise FormatError(
        op,
        f"NaN for slot {name}",
        "numbers: the slot was made with nan='refuse'",
        "Leave the value out, or make the slot with nan='pass'.",
    )
