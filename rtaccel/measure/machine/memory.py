"""How much memory a call takes at most, beside what was there before it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rtaccel.core.errors import FormatError
from rtaccel.measure.numbers import is_whole, shown
from rtaccel.measure.timing import sampler

MAX_CALLS = 10_000_000

_PROC = Path("/proc/self")


@dataclass(frozen=True)
class Memory:
    """peak_bytes: most of the process's resident memory during the calls; before_bytes: what it had before them. None where the
    system does not say, and `reason` says why. device_bytes: most that torch held of a GPU; None without one.
    """

    peak_bytes: int | None
    before_bytes: int | None
    device_bytes: int | None = None
    reason: str | None = None

    @property
    def grown_bytes(self) -> int | None:
        if self.peak_bytes is None or self.before_bytes is None:
            return None
        return max(0, self.peak_bytes - self.before_bytes)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"grown_bytes": self.grown_bytes}


def peak_memory(fn: Callable[..., object], inputs: Any = (), calls: int = 10) -> Memory:
    """Peak over some calls of `fn(*inputs)`. Linux: the high-water mark is put back to what is resident now, then read.

    What a call frees and takes again from memory that the process kept does not show: call once before to leave out
    what the first call alone takes. What `fn` raises goes through unchanged.

    Raises FormatError for a `fn` or `calls` that make no sense.
    """
    if not callable(fn):
        raise FormatError(
            "memory", f"fn of type {type(fn).__name__}", "something callable", "Pass the function itself."
        )
    if not is_whole(calls, 1, MAX_CALLS):
        raise FormatError("memory", f"calls={shown(calls)}", f"a whole number, 1 to {MAX_CALLS:,}", "Ten are usual.")
    args = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    torch = sys.modules.get("torch")
    cuda = torch is not None and torch.cuda.is_initialized()
    if cuda:
        torch.cuda.reset_peak_memory_stats()  # type: ignore[union-attr]
    reason, before = _reset()
    with sampler.no_grad():
        for _ in range(calls):
            sampler.check_ran(fn(*args))
    device = int(torch.cuda.max_memory_allocated()) if cuda else None  # type: ignore[union-attr]
    return Memory(None if reason else _status("VmHWM"), before, device, reason)


def _reset() -> tuple[str | None, int | None]:
    """Why the mark cannot be put back, and what is resident."""
    try:
        (_PROC / "clear_refs").write_text("5")
        return None, _status("VmRSS")
    except OSError as error:
        return f"the high-water mark of memory cannot be put back: {error}", None


def _status(field: str) -> int:
    for line in (_PROC / "status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
