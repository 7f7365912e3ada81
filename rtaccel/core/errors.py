"""Typed errors. Each message names the op, the offending value, what was expected and the next step."""

from __future__ import annotations


class RtaccelError(Exception):
    """Base of everything rtaccel raises on purpose.

    The four parts are kept as attributes, so a caller can act on them without parsing text.
    """

    def __init__(self, op: str, got: object, expected: str, next_step: str) -> None:
        self.op = op
        self.got = got
        self.expected = expected
        self.next_step = next_step
        super().__init__(self._text())

    def _text(self) -> str:
        return f"{self.op}: got {self.got}; expected {self.expected}. {self.next_step}"

    def renamed(self, op: str) -> None:
        """Another operation is what was called; traceback and cause stay."""
        self.op = op
        self.args = (self._text(), *self.args[1:])

    def __reduce__(self) -> tuple[type[RtaccelError], tuple[object, ...]]:
        """Raised in another process, it arrives with its parts."""
        return type(self), (self.op, str(self.got), self.expected, self.next_step)


class UnsupportedProblem(RtaccelError):
    """Nothing can compute this: a scheme, size, operator or option without a kernel."""


class ShapeError(RtaccelError, ValueError):
    """A tensor with the wrong width, rank, dtype, device, or an `out` that does not fit."""


class FormatError(RtaccelError, ValueError):
    """Values that are not valid: an unknown scheme, a weight that is not finite, a bad scale, state, option or file."""


class BackendUnavailable(RtaccelError):
    """A backend that was asked for cannot run on this machine; the message holds every reason."""


class BudgetExceeded(RtaccelError):
    """A measured latency, size or error is over its budget."""


class FallbackWarning(UserWarning):
    """A compiled model leaves something to torch, which is far slower than a native stage."""
