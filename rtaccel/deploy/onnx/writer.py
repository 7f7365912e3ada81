"""An ONNX graph while it is written: nodes, constants, and what each value of a program is called in it.

A value of a program is a tensor [M, steps, width], or [M, width] where it has one step. One that is int8 with a static scale has
two names: the int8 tensor, and the real one that a DequantizeLinear makes of it where something reads that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.stage import QParams, Stage, Value
from rtaccel.kernels._common.strides import elements

OPSET = 21
"""Of what is written: the first with int4 and with a scale per block."""

ML = "ai.onnx.ml"
"""The domain of trees, written in its version 3."""

IR_VERSION = 10
"""Of the file: the one that belongs to the opset."""

_DTYPES = {"float32": 1, "int8": 3, "int64": 7, "int32": 6, "uint8": 2, "bool": 9, "float16": 10, "bfloat16": 16,
           "int16": 5}  # fmt: skip


class Writer:
    """Writes one graph. stored, real: name of a value -> its tensor as it is stored, and dequantized."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._stored: dict[str, str] = {}
        self._real: dict[str, str] = {}
        self._names: set[str] = set()
        self._small: dict[Any, str] = {}
        self.stage: Stage | None = None

    # -- names, constants, nodes ----------------------------------------------------------------------------------------

    def name(self, wanted: str) -> str:
        """A name that nothing else has."""
        made, count = wanted, 1
        while made in self._names:
            made, count = f"{wanted}_{count}", count + 1
        self._names.add(made)
        return made

    def constant(self, value: Any, name: str = "constant", shared: bool = True) -> str:
        """A tensor of the file. Small ones that are alike are stored once, but not those of a weight: runtimes pack them."""
        array = value.detach().cpu().contiguous().numpy() if isinstance(value, Tensor) else np.asarray(value)
        key = (array.dtype.str, array.shape, array.tobytes()) if shared and array.size <= 16 else None
        if key is not None and key in self._small:
            return self._small[key]
        made = self.name(name)
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), made))
        if key is not None:
            self._small[key] = made
        return made

    def int4(self, values: np.ndarray, name: str) -> str:
        """A tensor of numbers in -8..7, two a byte."""
        made = self.name(name)
        self.constants.append(
            self.onnx.helper.make_tensor(
                made, self.onnx.TensorProto.INT4, values.shape, values.astype(np.int8).flatten()
            )
        )
        return made

    def node(self, kind: str, *inputs: str, outputs: int = 1, **attrs: Any) -> Any:
        """The name of a node's output, or the names of several."""
        title = self.name(f"{self.stage.name or self.stage.op}/{kind}" if self.stage is not None else kind)
        made = [self.name(title + (f":{i}" if i else ":out")) for i in range(outputs)]
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), made, name=title, **attrs))
        return made[0] if outputs == 1 else tuple(made)

    def number(self, value: float) -> str:
        return self.constant(np.float32(value), "number")

    def shaped(self, x: str, *sizes: int) -> str:
        """Reshape; 0 keeps a dimension, -1 is what is left."""
        return self.node("Reshape", x, self.constant(np.array(sizes, np.int64), "shape"))

    # -- values ---------------------------------------------------------------------------------------------------------

    def quantized(self, x: str, quant: QParams) -> str:
        return self.node("QuantizeLinear", x, *self._scale(quant))

    def dequantized(self, q: str, quant: QParams) -> str:
        return self.node("DequantizeLinear", q, *self._scale(quant))

    def _scale(self, quant: QParams) -> tuple[str, str]:
        return self.constant(np.float32(quant.scale), "scale"), self.constant(np.int8(quant.zero_point), "zero_point")

    def put(self, value: Value, real: str) -> None:
        """A result as a real number; it becomes int8 where the value is."""
        if value.dtype == "int8":
            if value.quant is None:
                self.refuse(f"gives {value.name}, int8 with a scale per row, of which it is not known how")
            self._stored[value.name] = self.quantized(real, value.quant)
        else:
            self._stored[value.name] = real

    def put_stored(self, value: Value, tensor: str) -> None:
        self._stored[value.name] = tensor

    def stored(self, value: Value) -> str:
        return self._stored[value.name]

    def real(self, value: Value, move: Callable[[str], str] | None = None) -> str:
        """As float32 (or whole numbers, where it holds these). move: what brings its elements into another shape or order first;
        int8 is moved as int8, so that a DequantizeLinear stands right before what computes."""
        if value.dtype != "int8" or value.quant is None:
            return self._stored[value.name] if move is None else move(self._stored[value.name])
        if move is not None:
            return self.dequantized(move(self._stored[value.name]), value.quant)
        if value.name not in self._real:
            self._real[value.name] = self.dequantized(self._stored[value.name], value.quant)
        return self._real[value.name]

    # -- elements by strides --------------------------------------------------------------------------------------------

    def strided(self, x: str, size: int, dims: Sequence[int], place: Sequence[int], lead: bool = True) -> str:
        """[M, *dims] of a value of `size` elements for each sample (lead=False: of a constant, [*dims]): an offset and a stride
        for each dimension; 1 for a dimension of stride 0, which broadcasts."""
        front = [0] if lead else []
        kept = [d for d, stride in enumerate(place[1:]) if stride != 0 and dims[d] != 1]
        shape = [dims[d] if d in kept else 1 for d in range(len(dims))]
        sizes, strides = [dims[d] for d in kept], [place[1 + d] for d in kept]
        order = sorted(range(len(kept)), key=lambda i: -strides[i])
        expected, dense = 1, place[0] == 0
        for i in reversed(order):
            dense = dense and strides[i] == expected
            expected *= sizes[i]
        if dense and expected == size:
            if order != sorted(order):
                x = self.shaped(x, *front, *(sizes[i] for i in order))
                back = [order.index(i) for i in range(len(order))]
                x = self.node("Transpose", x, perm=[0, *(b + 1 for b in back)] if lead else back)
            return self.shaped(x, *front, *shape)
        index = elements(tuple(sizes) or (1,), (place[0], *strides) if sizes else (place[0], 0))
        flat = self.shaped(x, *front, size)
        picked = self.node(
            "Gather", flat, self.constant(index.reshape(-1).astype(np.int64), "elements"), axis=len(front)
        )
        return self.shaped(picked, *front, *shape)

    def whole(self, x: str, dims: Sequence[int], have: Sequence[int] | None = None) -> str:
        """Broadcast to [M, *dims]."""
        return self.node("Expand", x, self.constant(np.array([1, *dims], np.int64), "shape"))

    def as_value(self, x: str, value: Value) -> str:
        return self.shaped(x, 0, *value.shape)

    def refuse(self, why: str) -> NoReturn:
        stage = self.stage
        named = f"{stage.op} {stage.name!r}" if stage is not None else "the model"
        raise UnsupportedProblem(
            "to_onnx", f"{named}, which {why}", "stages with a form in ONNX",
            "Compile the model without this part, or export the original model.",
        )  # fmt: skip


def cpu(tensor: Tensor) -> np.ndarray:
    made = tensor.detach().cpu()
    return (made.float() if made.dtype in (torch.bfloat16, torch.float16) else made).numpy()


def onnx_type(dtype: str) -> int:
    return _DTYPES[dtype]
