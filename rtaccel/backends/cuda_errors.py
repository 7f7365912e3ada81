"""CUDA errors that end the use of the GPU in this process, told from those that do not.

After a sticky error every later CUDA call of the process fails with the same one: nothing on the card can go on, and only a
new process helps. The backend is then marked dead here, so that the next question gets a reason and not the old error, and
the caller can compile for the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rtaccel.core.errors import BackendUnavailable, RtaccelError, UnsupportedProblem

STICKY = (
    "illegal memory access", "misaligned address", "illegal instruction", "invalid program counter", "device-side assert",
    "unspecified launch failure", "hardware stack error", "uncorrectable ecc", "launch timed out", "illegal address",
    "device unavailable", "fallen off the bus", "invalid address space", "nvlink", "launch failed", "launch timeout",
    "error assert", "ecc uncorrectable", "invalid pc",
)  # fmt: skip
"""Parts of the messages of errors that corrupt the context (cudaErrorIllegalAddress and its like), as torch and Triton write
them, and of the driver's names (CUDA_ERROR_LAUNCH_FAILED), as cuda-core does."""

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


def _words(error: BaseException) -> str:
    """CUDA_ERROR_ILLEGAL_ADDRESS reads as "cuda error illegal address"."""
    return str(error).lower().replace("_", " ")


def is_sticky(error: BaseException) -> bool:
    text = _words(error)
    return ("cuda" in text or "accelerator" in type(error).__name__.lower()) and any(s in text for s in STICKY)


def is_out_of_memory(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfMemoryError" or "out of memory" in _words(error)


def _is_of_cuda(error: BaseException) -> bool:
    """Whether it is an error of torch (RuntimeError), or of cuda-core, triton or numba (Exception alone)."""
    return isinstance(error, RuntimeError) or type(error).__module__.split(".")[0] in ("cuda", "triton", "numba")


@contextmanager
def translated(op: str, free: Callable[[], str] = lambda: "") -> Iterator[None]:
    """CUDA's errors as typed ones, whoever raises them: a sticky one marks the backend dead, one of cuda-core or triton does not
    leave this library as it is. free: text on the memory that is left."""
    if _dead is not None:
        raise BackendUnavailable(op, "the GPU of this process", f"one that works ({_dead})", NEXT)
    try:
        yield
    except RtaccelError:
        raise
    except Exception as error:
        if not _is_of_cuda(error):
            raise
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        if is_sticky(error):
            mark_dead(f"after the error {first!r} no CUDA call of this process works")
            raise BackendUnavailable(op, repr(first), "a kernel that ends well", NEXT) from error
        if is_out_of_memory(error):
            raise UnsupportedProblem(
                op, f"{first}{free()}", "enough free memory on the card", "Free memory, or compile for a smaller batch."
            ) from error
        if type(error).__name__ == "OutOfResources":
            raise UnsupportedProblem(
                op, first, "a kernel that fits this card", "Use a card with more of it, or device='cpu'."
            ) from error
        if isinstance(error, RuntimeError):
            raise
        raise BackendUnavailable(op, f"{type(error).__name__}: {first}", "a call that CUDA takes", NEXT) from error


NEXT = "Go on with a model compiled for device='cpu', or start a new process."
