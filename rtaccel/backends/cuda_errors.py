"""CUDA errors that end the use of the GPU in this process, told from those that do not.

After a sticky error every later CUDA call of the process fails with the same one: nothing on the card can go on, and only a
new process helps. The backend is then marked dead here, so that the next question gets a reason and not the old error, and
the caller can compile for the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rtaccel.core.errors import BackendUnavailable, UnsupportedProblem

STICKY = (
    "illegal memory access", "misaligned address", "illegal instruction", "invalid program counter", "device-side assert",
    "unspecified launch failure", "hardware stack error", "uncorrectable ecc", "launch timed out", "illegal address",
    "device unavailable", "fallen off the bus", "invalid address space", "nvlink",
)  # fmt: skip
"""Parts of the messages of errors that corrupt the context (cudaErrorIllegalAddress and its like)."""

_dead: str | None = None


def dead() -> str | None:
    """Why the GPU can no longer be used in this process; None where it can."""
    return _dead


def revive() -> None:
    """Forgets what `mark_dead` said. For tests: a real sticky error does not go away."""
    global _dead
    _dead = None


def mark_dead(reason: str) -> None:
    global _dead
    _dead = _dead or reason


def is_sticky(error: BaseException) -> bool:
    text = str(error).lower()
    return ("cuda" in text or "accelerator" in type(error).__name__.lower()) and any(s in text for s in STICKY)


def is_out_of_memory(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfMemoryError" or "out of memory" in str(error).lower()


@contextmanager
def translated(op: str, free: Callable[[], str] = lambda: "") -> Iterator[None]:
    """CUDA's errors as typed ones: a sticky one marks the backend dead. free: text on the memory that is left."""
    if _dead is not None:
        raise BackendUnavailable(op, "the GPU of this process", f"one that works ({_dead})", NEXT)
    try:
        yield
    except RuntimeError as error:  # torch.cuda.OutOfMemoryError and torch.AcceleratorError are RuntimeErrors
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        if is_sticky(error):
            mark_dead(f"after the error {first!r} no CUDA call of this process works")
            raise BackendUnavailable(op, repr(first), "a kernel that ends well", NEXT) from error
        if is_out_of_memory(error):
            raise UnsupportedProblem(
                op, f"{first}{free()}", "enough free memory on the card", "Free memory, or compile for a smaller batch."
            ) from error
        raise


NEXT = "Go on with a model compiled for device='cpu', or start a new process."
