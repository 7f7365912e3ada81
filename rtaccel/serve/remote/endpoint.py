"""Who answers: a model behind frames."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rtaccel import _native as native
from rtaccel.core.errors import FormatError, RtaccelError, ShapeError
from rtaccel.deploy import container
from rtaccel.deploy.load import LoadedModel, load
from rtaccel.deploy.save import artifact_bytes
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.serve.frames import FrameRefused, Reader, Writer
from rtaccel.serve.split.cut import NAME, Cut

MODEL_REFUSED = 1
"""Status of an answer to numbers that the model does not take."""


@dataclass
class EndpointStats:
    """answered: frames whose answer was made. failed: those whose numbers the model refused; the answer says so. refused:
    frames that were dropped, by reason. peers: senders that are remembered."""

    answered: int = 0
    failed: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    peers: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


class Endpoint:
    """Answers requests with a model's results. It knows no transport: `answer` is bytes to bytes, and any thread may call it.

    model: a compiled model or a loaded one, without states.
    example_inputs: of one call, float32, int8 or int64 [batch, ...]; every request has these shapes.
    digest: of the model, which both ends have; None: that of a compiled model's file.
    wire: of float32 in requests: "float32", "int8", "int4". Answers are exact.
    key: 16 bytes that both ends share: frames of others are dropped. It authenticates; it does not hide what is sent.
    max_peers: how many senders are remembered, so that none of their frames is taken twice; the one that was silent longest is
        forgotten.

    A frame that is refused gets no answer and is counted. Each sender's sequence numbers have to grow: what is replayed or
    reordered is dropped. A sender that started anew has a greater session. Raises ShapeError and FormatError for what cannot be
    answered.
    """

    def __init__(
        self,
        model: CompiledModel | LoadedModel,
        example_inputs: Sequence[Any],
        *,
        digest: bytes | None = None,
        wire: str = "float32",
        key: bytes | None = None,
        max_peers: int = 1024,
    ) -> None:
        if isinstance(max_peers, bool) or not isinstance(max_peers, int) or max_peers < 1:
            raise FormatError("Endpoint", f"max_peers={max_peers!r}", "a positive number", "1024 is a good start.")
        if digest is None:
            if not isinstance(model, CompiledModel):
                raise FormatError("Endpoint", "a loaded model without a digest", "digest=", "Use Endpoint.load(path).")
            digest = container.digest(artifact_bytes(model, name=NAME))
        into = [_array(x) for x in example_inputs]
        results = model(*into)
        flat = results if isinstance(results, (tuple, list)) else (results,)
        outs = [_array(y) for y in flat]
        self.digest = digest
        self._reader = Reader(into, digest, wire, key)
        self._writer = Writer(outs, digest, "float32", key)
        self._call = model.bind(*into, out=tuple(outs) if isinstance(results, (tuple, list)) else outs[0])
        self._frame = np.zeros(self._writer.bytes, np.uint8)
        self._view = memoryview(self._frame.data)
        self._guards: OrderedDict[Hashable, Any] = OrderedDict()
        self._max_peers, self._lock, self._stats = max_peers, Lock(), EndpointStats()

    @classmethod
    def of(cls, cut: Cut, *, key: bytes | None = None, max_peers: int = 1024) -> Endpoint:
        """The cloud's half of a cut, for the batch of its example. Raises FormatError where nothing is on the cloud."""
        if cut.cloud is None:
            raise FormatError("Endpoint", "a cut behind the last stage", "a half on the cloud", "Call cut(x).")
        example = [np.zeros(shape, dtype) for shape, dtype in cut.sent]
        return cls(cut.cloud, example, digest=cut.digest, wire=cut.best.scheme, key=key, max_peers=max_peers)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        batch: int = 1,
        wire: str = "float32",
        key: bytes | None = None,
        verify_key: Any = None,
        max_peers: int = 1024,
    ) -> Endpoint:
        """A file that `Cut.save_cloud` or `rt.save` wrote; it needs no torch model. verify_key: as `rt.load`.

        Raises FormatError for another file, and what `rt.load` raises.
        """
        model = load(path, verify_key=verify_key)
        with open(path, "rb") as file:
            digest = container.written_digest("Endpoint", file.read())
        if model.streams:
            raise FormatError("Endpoint", f"{path}, a stream", "a model without states", "Streams stay where they are.")
        example = [np.zeros([batch if s < 0 else s for s in shape], dtype) for _, dtype, shape in model.inputs]
        return cls(model, example, digest=digest, wire=wire, key=key, max_peers=max_peers)

    @property
    def request_bytes(self) -> int:
        """Of a request's frame; what is larger is refused."""
        return self._reader.bytes

    @property
    def answer_bytes(self) -> int:
        """Of an answer's frame."""
        return self._writer.bytes

    def answer(self, frame: Any, peer: Hashable = None, size: int | None = None) -> bytes | None:
        """The frame that answers a request; None where it was refused.

        frame: bytes, or anything with a buffer; size: how many of them. peer: who sent it, by whatever the transport tells apart.
        """
        with self._lock:
            guard = self._guards.get(peer)
            fresh = guard is None
            if fresh:
                guard = native.FrameGuard()
            try:
                head = self._reader.read(frame, size, guard=guard)
            except FrameRefused as refused:
                self._stats.refused[refused.reason] = self._stats.refused.get(refused.reason, 0) + 1
                return None
            if fresh:
                self._guards[peer] = guard
                if len(self._guards) > self._max_peers:
                    self._guards.popitem(last=False)
            else:
                self._guards.move_to_end(peer)
            status = 0
            try:
                self._call()
                self._stats.answered += 1
            except RtaccelError:
                status = MODEL_REFUSED
                self._stats.failed += 1
            bytes_ = self._writer.write(
                self._frame, head.sequence, head.stamp_ns, kind="answer", status=status, session=head.session
            )
            return bytes(self._view[:bytes_])

    def stats(self) -> EndpointStats:
        """Counts so far, a copy."""
        with self._lock:
            return EndpointStats(self._stats.answered, self._stats.failed, dict(self._stats.refused), len(self._guards))


def _array(x: Any) -> NDArray[Any]:
    """A copy."""
    return np.array(x.numpy() if isinstance(x, Tensor) else x)


def check_size(most: int | None, *ends: Any) -> None:
    """Raises ShapeError where a frame is larger than a transport takes."""
    largest = max(ends)
    if most is not None and largest > most:
        raise ShapeError(
            "remote",
            f"frames of {largest} bytes",
            f"at most {most}, one datagram",
            "Use zenoh or gRPC, int8 wires, or a smaller batch.",
        )
