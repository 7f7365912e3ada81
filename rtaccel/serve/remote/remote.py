"""Who asks: a model whose half, or whole, is on another machine."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from rtaccel.core.errors import FormatError, RtaccelError, ShapeError
from rtaccel.measure.numbers import is_number, is_whole, shown
from rtaccel.serve.frames import Reader, Writer
from rtaccel.serve.frames.end import Head
from rtaccel.serve.remote.endpoint import MODEL_REFUSED, check_size
from rtaccel.serve.remote.transport import Client, linked
from rtaccel.serve.split.cut import Cut

OUTSTANDING = 256
"""Requests whose answers are waited for; the oldest is given up."""

Specs = Sequence["tuple[tuple[int, ...], str]"]


class TimedOut(RtaccelError):
    """No answer came in time."""


@dataclass
class RemoteStats:
    """sent: frames. here: requests that `before` answered, without a frame. answered: answers that were taken. failed: those that
    say that the model refused the numbers. refused: answers that were dropped, by reason. unasked: answers to requests that
    nobody waits for any more."""

    sent: int = 0
    answered: int = 0
    failed: int = 0
    unasked: int = 0
    here: int = 0
    refused: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


class Remote:
    """A model on the other end of a transport. `remote(x)` waits for the answer; `post` and `take` do not.

    transport: a client of `rtaccel.serve.remote.udp`, `.zenoh` or `.grpc`.
    sent, answered: (shape, dtype) of each tensor there and back.
    digest: of the model at the endpoint. wire, key: as there.
    before: from the arguments of a call to (tensors to send, or None where nothing has to be sent, whatever `after` needs).
        after: from (arguments, that, tensors that came back) to the result. Without them the arguments are sent and the answer is
            the result.

    One thread at a time. `with` closes the transport at the end. `Remote.of(cut, transport)` does the edge's half here.
    Raises FormatError and ShapeError for what does not fit.
    """

    def __init__(
        self,
        transport: Client,
        sent: Specs,
        answered: Specs,
        digest: bytes,
        *,
        wire: str = "float32",
        key: bytes | None = None,
        before: Callable[[Sequence[Any]], tuple[Sequence[Tensor] | None, Any]] | None = None,
        after: Callable[[Sequence[Any], Any, Sequence[Tensor]], Any] | None = None,
    ) -> None:
        self._out = [torch.from_numpy(np.zeros(shape, dtype)) for shape, dtype in sent]
        self._into = [torch.from_numpy(np.zeros(shape, dtype)) for shape, dtype in answered]
        self._writer = Writer([t.numpy() for t in self._out], digest, wire, key)
        self._reader = Reader([t.numpy() for t in self._into], digest, "float32", key)
        check_size(transport.most_bytes, self._writer.bytes, self._reader.bytes)
        self._transport, self._before, self._after = transport, before, after
        self._link = linked(transport, self._writer, self._reader)
        self._asked: OrderedDict[int, tuple[Sequence[Any], Any]] = OrderedDict()
        self._made: OrderedDict[int, Any] = OrderedDict()
        self._next = 0
        self._stats = RemoteStats()

    @classmethod
    def of(cls, cut: Cut, transport: Client, *, key: bytes | None = None) -> Remote:
        """A cut whose cloud's half is at the other end; the edge's half runs here. Raises FormatError where nothing is sent."""
        if cut.cloud is None:
            raise FormatError("Remote", "a cut behind the last stage", "a half on the cloud", "Call cut(x).")
        return cls(
            transport, cut.sent, cut.answered, cut.digest, wire=cut.best.scheme, key=key, before=cut.before,
            after=cut.after,
        )  # fmt: skip

    def post(self, *inputs: Any, stamp_ns: int | None = None) -> int:
        """Sends a request and gives its number; where the edge has answered, nothing is sent and `take` has it. stamp_ns: of this
        machine's clock; None: now. Raises ShapeError and FormatError, with nothing sent, for arguments that do not fit."""
        if stamp_ns is not None and not is_whole(stamp_ns, -(2**63), 2**63 - 1):
            raise FormatError(
                "remote", f"stamp_ns={shown(stamp_ns)}", "nanoseconds of a clock", "Leave it out for now."
            )
        tensors, kept = (self._flat(inputs), ()) if self._before is None else self._before(inputs)
        if tensors is None:
            return self._keep(inputs, kept)
        if len(tensors) != len(self._out):
            raise ShapeError("remote", f"{len(tensors)} tensors", f"{len(self._out)}", "Call it as the model.")
        for to, tensor in zip(self._out, tensors):
            fits = isinstance(tensor, Tensor) and tensor.shape == to.shape and tensor.dtype == to.dtype
            if not fits:
                got = f"{tensor.dtype}{list(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
                raise ShapeError("remote", got, f"{to.dtype}{list(to.shape)}, as the example", "Pass such a tensor.")
        for to, tensor in zip(self._out, tensors):
            to.copy_(tensor)
        self._next += 1
        self._asked[self._next] = (inputs, kept)
        if len(self._asked) > OUTSTANDING:
            self._asked.popitem(last=False)
        self._stats.sent += 1
        self._link.post(self._next, time.monotonic_ns() if stamp_ns is None else stamp_ns)
        return self._next

    def post_here(self, *inputs: Any) -> int | None:
        """As `post` where the edge answers by itself; None where a request would have to be sent, and nothing is. Raises
        ShapeError as `post`."""
        if self._before is None:
            return None
        tensors, kept = self._before(inputs)
        return self._keep(inputs, kept) if tensors is None else None

    def answered_here(self, number: int) -> bool:
        """Whether the edge has answered this request, and the answer was not taken."""
        return number in self._made

    def _keep(self, inputs: tuple[Any, ...], kept: Any) -> int:
        self._next += 1
        self._stats.here += 1
        self._made[self._next] = kept if self._after is None else self._after(inputs, kept, ())
        if len(self._made) > OUTSTANDING:
            self._made.popitem(last=False)
        return self._next

    @staticmethod
    def _flat(inputs: tuple[Any, ...]) -> Sequence[Any]:
        nested = any(isinstance(x, (tuple, list, dict)) for x in inputs)
        return pytree.tree_leaves(inputs) if nested else inputs

    def take(self, timeout_s: float = 0.0) -> tuple[int, Any] | None:
        """The next answer, (number of its request, result), or None after the time. A result of None: the model refused the
        numbers.

        Frames that are refused, and answers to requests that were given up, are counted and skipped.
        """
        _check_time(timeout_s)
        if self._made:
            return self._made.popitem(last=False)
        end = time.monotonic() + timeout_s
        while True:
            head = self._link.take(max(0.0, end - time.monotonic()))
            if head is None:
                return None
            if isinstance(head, str):
                self._stats.refused[head] = self._stats.refused.get(head, 0) + 1
            elif (found := self._answer(head)) is not None:
                return found

    def _answer(self, head: Head) -> tuple[int, Any] | None:
        asked = self._asked.pop(head.sequence, None)
        if asked is None:
            self._stats.unasked += 1
            return None
        if head.status:
            self._stats.failed += 1
            return head.sequence, None
        self._stats.answered += 1
        back = tuple(t.clone() for t in self._into)
        inputs, kept = asked
        if self._after is None:
            return head.sequence, back[0] if len(back) == 1 else back
        return head.sequence, self._after(inputs, kept, back)

    def forget(self, number: int) -> None:
        """Nobody waits for the answer to this request any more."""
        self._asked.pop(number, None)
        self._made.pop(number, None)

    def __call__(self, *inputs: Any, timeout_s: float = 1.0) -> Any:
        """The model's result. Raises TimedOut where no answer comes in time, FormatError where the model refuses the numbers."""
        _check_time(timeout_s)
        number = self.post(*inputs)
        end = time.monotonic() + timeout_s
        while True:
            found = self.take(max(0.0, end - time.monotonic()))
            if found is None:
                self.forget(number)
                raise TimedOut(
                    "remote",
                    f"no answer in {timeout_s:g} s",
                    "an endpoint that answers",
                    "Call it again, or use rt.Hedged.",
                )
            if found[0] == number:
                if found[1] is None:
                    raise FormatError(
                        "remote",
                        f"an answer of status {MODEL_REFUSED}",
                        "numbers that the model takes",
                        "Mend the input.",
                    )
                return found[1]

    def stats(self) -> RemoteStats:
        """Counts so far, a copy."""
        s = self._stats
        return RemoteStats(s.sent, s.answered, s.failed, s.unasked, s.here, dict(s.refused))

    def close(self) -> None:
        """Closes the transport."""
        self._transport.close()

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _check_time(timeout_s: Any) -> None:
    if not is_number(timeout_s) or timeout_s != timeout_s:
        raise FormatError("remote", f"timeout_s={shown(timeout_s)}", "seconds; 0 does not wait", "Change timeout_s.")
