"""Who answers: a model behind frames."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rtaccel import _native as native
from rtaccel.core.errors import FormatError, RtaccelError, ShapeError, UnsupportedProblem
from rtaccel.deploy import container
from rtaccel.deploy.load import load
from rtaccel.deploy.loaded_model import LoadedModel
from rtaccel.deploy.save import artifact_bytes
from rtaccel.measure.numbers import is_whole, shown
from rtaccel.realtime.steps import steps_of
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.serve.frames import Reader, Writer
from rtaccel.serve.frames.end import check_frame
from rtaccel.serve.frames.refusal import REASONS
from rtaccel.serve.split.cut import NAME, Cut

MODEL_REFUSED = 1
"""Status of an answer to numbers that the model does not take (RTA_ENDPOINT_REFUSED)."""


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
    reordered is dropped. A sender that started anew has a greater session. Frames are checked, computed and answered in native
    code; a model that is not one native plan is called from there, with the GIL, and `in_python` says why. Raises ShapeError and
    FormatError for what cannot be answered.
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
        if not is_whole(max_peers, 1, 2**31 - 1):
            raise FormatError("Endpoint", f"max_peers={shown(max_peers)}", "a positive number", "1024 is a good start.")
        if digest is None:
            if not isinstance(model, CompiledModel):
                raise FormatError("Endpoint", "a loaded model without a digest", "digest=", "Use Endpoint.load(path).")
            digest = container.digest(artifact_bytes(model, name=NAME))
        into = [_array(x) for x in example_inputs]
        results = model(*into)
        flat = results if isinstance(results, (tuple, list)) else (results,)
        outs = [_array(y) for y in flat]
        self.digest = digest
        self._reader, self._writer = Reader(into, digest, wire, key), Writer(outs, digest, "float32", key)
        self.in_python = ""
        """Why the model is called from Python; "" where it is not."""
        try:
            step = steps_of("Endpoint", model, [(a.shape, a.dtype.name) for a in into], []).steps[0]
        except UnsupportedProblem as problem:
            self.in_python = str(problem)
            bound = model.bind(*into, out=tuple(outs) if isinstance(results, (tuple, list)) else outs[0])
            step = native.python_step(_called(bound), [a.nbytes for a in into], [a.nbytes for a in outs])
        self._native = native.FrameEndpoint(self._reader.native, self._writer.native, step, max_peers)

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
        if not is_whole(batch, 1, 2**31 - 1):
            raise FormatError("Endpoint", f"batch={shown(batch)}", "a positive number of rows", "Leave it out for one.")
        model = load(path, verify_key=verify_key)
        with open(path, "rb") as file:
            digest = container.written_digest("Endpoint", file.read())
        if model.streams:
            raise FormatError("Endpoint", f"{path}, a stream", "a model without states", "Streams stay where they are.")
        example = [np.zeros([batch if s < 0 else s for s in shape], dtype) for _, dtype, shape in model.inputs]
        return cls(model, example, digest=digest, wire=wire, key=key, max_peers=max_peers)

    @property
    def native(self) -> Any:
        """The native side, for transports that need no Python."""
        return self._native

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

        frame: bytes, or anything with a buffer; size: how many of them. peer: who sent it: senders are told apart by its repr.
        Raises ShapeError for what is no memory of `size` bytes.
        """
        try:
            found = self._native.answer(frame, len(frame) if size is None else size, _name_of(peer))
        except (TypeError, ValueError, BufferError):
            check_frame("Endpoint", frame, size)
            raise
        return found if isinstance(found, bytes) else None

    def stats(self) -> EndpointStats:
        """Counts so far, a copy."""
        s = self._native.stats()
        refused = {REASONS[code][0]: count for code, count in s["refused"].items()}
        return EndpointStats(s["answered"], s["failed"], refused, s["peers"])


def _name_of(peer: Hashable) -> bytes:
    """At most 64 bytes that tell a sender from others."""
    name = peer if isinstance(peer, bytes) else repr(peer).encode()
    return name if len(name) <= 64 else hashlib.blake2b(name, digest_size=64).digest()


def _called(bound: Callable[[], object]) -> Callable[..., int]:
    """A bound call as the native side takes one: it reads and writes memory that it knows already."""

    def call(sources: tuple[int, ...], targets: tuple[int, ...]) -> int:
        try:
            bound()
        except RtaccelError:
            return 1
        return 0

    return call


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
