"""What crosses a cut, as frames: arrays for both ends, in memory of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rtaccel.core.errors import ShapeError
from rtaccel.core.stage import GraphIO
from rtaccel.serve.frames import Reader, Writer, wire_of

FRAME_BYTES, TENSOR_BYTES, MAX_TENSORS, MAX_DIMS = 64, 40, 8, 7
SENT = ("float32", "int8", "int64")


def frame_bytes(ports: Sequence[GraphIO], lead: Sequence[int], wire: str) -> int:
    """Of a frame with these tensors. lead: their leading dimensions."""
    total = FRAME_BYTES
    for port in ports:
        shape = (*lead, *port.trailing)
        width = int(np.prod(shape[1:], dtype=np.int64))
        total += TENSOR_BYTES + -(-wire_of(wire).tensor_bytes(port.value.dtype, shape[0], width) // 8) * 8
    return total


def numbers(ports: Sequence[GraphIO], lead: Sequence[int]) -> int:
    """How many numbers these tensors have."""
    return sum(int(np.prod((*lead, *port.trailing), dtype=np.int64)) for port in ports)


def refusal(ports: Sequence[GraphIO], lead: Sequence[int]) -> str:
    """Why these values cannot be sent, or ""."""
    odd = [f"{p.value.name} is {p.value.dtype}" for p in ports if p.value.dtype not in SENT]
    deep = any(len(lead) + len(p.trailing) > MAX_DIMS for p in ports)
    many = f"{len(ports)} tensors, a frame has {MAX_TENSORS}" if len(ports) > MAX_TENSORS else ""
    return "; ".join(filter(None, (*odd, many, f"more than {MAX_DIMS} dimensions" if deep else "")))


class Passage:
    """One direction of a cut for one shape: `there` gives what arrives of the tensors that leave."""

    def __init__(
        self, ports: Sequence[GraphIO], lead: Sequence[int], wire: str, digest: bytes, key: bytes | None = None
    ) -> None:
        shapes = [((*lead, *p.trailing), getattr(torch, p.value.dtype)) for p in ports]
        self.out = tuple(torch.zeros(shape, dtype=dtype) for shape, dtype in shapes)
        self.into = tuple(torch.zeros(shape, dtype=dtype) for shape, dtype in shapes)
        self.writer = Writer([t.numpy() for t in self.out], digest, wire, key)
        self.reader = Reader([t.numpy() for t in self.into], digest, wire, key)
        self.frame = np.zeros(self.writer.bytes, np.uint8)
        self._sequence = 0

    def put(self, tensors: Sequence[Tensor]) -> None:
        """Copies the tensors to where the writer reads them. Raises ShapeError for other shapes or dtypes."""
        for to, tensor in zip(self.out, tensors):
            if tensor.shape != to.shape or tensor.dtype != to.dtype:
                got = f"{tensor.dtype}{list(tensor.shape)}"
                raise ShapeError("split", got, f"{to.dtype}{list(to.shape)}", "Pass tensors like the example.")
            to.copy_(tensor)

    def there(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Through a frame and out again, in this process."""
        self.put(tensors)
        self._sequence += 1
        size = self.writer.write(self.frame, self._sequence)
        self.reader.read(self.frame, size)
        return tuple(t.clone() for t in self.into)
