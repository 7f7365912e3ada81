"""Random small ONNX graphs over the operators of the table, at any opset from 9 on, for Hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper


@dataclass
class Graph:
    """A graph while it grows. shape: of the newest value `name`."""

    opset: int
    shape: tuple[int, ...]
    draw: Any
    rng: np.random.Generator
    name: str = "x"
    nodes: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"w.{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def normal(self, *shape: int, scale: float = 1.0) -> str:
        return self.constant(self.rng.standard_normal(shape) * scale)

    def add(self, kind: str, *more: str, shape: Any = None, first: str | None = None, **attrs: Any) -> None:
        out = f"v{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(kind, [first or self.name, *more], [out], name=f"n{len(self.nodes)}", **attrs)
        )
        self.name, self.shape = out, self.shape if shape is None else shape

    def pick(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def axis(self, low: int = 0) -> int:
        return self.pick(low, len(self.shape) - 1)


def _activation(g: Graph) -> None:
    kinds = ["Relu", "LeakyRelu", "Elu", "Selu", "Sigmoid", "Tanh", "HardSigmoid", "Softplus", "Softsign", "ThresholdedRelu",
             "Abs", "Neg", "Erf", "Exp", "Sin", "Floor", "Ceil", "Sign", "Celu", "Round", "HardSwish", "Mish",
             "Gelu"]  # fmt: skip
    since = {"Celu": 12, "ThresholdedRelu": 10, "Round": 11, "HardSwish": 14, "Mish": 18, "Gelu": 20}
    g.add(g.draw(st.sampled_from([k for k in kinds if since.get(k, 9) <= g.opset])))


def _binary(g: Graph) -> None:
    kind = g.draw(st.sampled_from(["Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu"]))
    rank = 1 if kind == "PRelu" else g.pick(0, len(g.shape))
    shape = tuple(n if g.pick(0, 3) else 1 for n in g.shape[len(g.shape) - rank :])
    value = g.rng.standard_normal(shape)
    value = np.where(np.abs(value) < 0.2, 0.5, value) if kind == "Div" else value
    g.add(kind, g.constant(value))


def _gemm(g: Graph) -> None:
    k, n = g.shape[-1], g.pick(1, 6)
    if len(g.shape) != 2 or g.pick(0, 1):
        g.add("MatMul", g.normal(k, n, scale=0.5), shape=(*g.shape[:-1], n))
        return
    turned = g.pick(0, 1)
    bias = g.draw(st.sampled_from([(n,), (1, n), (1,), ()]))
    weight = g.normal(*((n, k) if turned else (k, n)), scale=0.5)
    g.add("Gemm", weight, g.normal(*bias), shape=(g.shape[0], n), transB=turned, alpha=g.draw(st.sampled_from([1.0, 0.5])),
          beta=g.draw(st.sampled_from([1.0, 2.0])))  # fmt: skip


def _window(g: Graph) -> None:
    dims = len(g.shape) - 2
    if dims < 1 or min(g.shape[2:]) < 3:
        return _activation(g)
    kernel = [g.pick(1, 3) for _ in range(dims)]
    strides = [g.pick(1, 2) for _ in range(dims)]
    pads = [g.pick(0, min(1, k - 1)) for k in kernel * 2]
    size = [(n + pads[i] + pads[i + dims] - kernel[i]) // strides[i] + 1 for i, n in enumerate(g.shape[2:])]
    kind = g.draw(st.sampled_from(["Conv", "MaxPool", "AveragePool", "ConvTranspose", "LpPool"]))
    same: dict[str, Any] = {"kernel_shape": kernel, "strides": strides}
    if g.pick(0, 2) == 0 and kind != "ConvTranspose":
        same["auto_pad"] = g.draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER"]))
        size = [-(-n // s) for n, s in zip(g.shape[2:], strides)]
    else:
        same["pads"] = pads
    c = g.shape[1]
    if kind == "Conv":
        groups = c if g.pick(0, 1) else 1
        n = c if groups == c else g.pick(1, 4)
        weight = g.normal(n, c // groups, *kernel, scale=0.4)
        more = [g.normal(n)] if g.pick(0, 1) else []
        g.add("Conv", weight, *more, shape=(g.shape[0], n, *size), group=groups, **same)
    elif kind == "ConvTranspose":
        n = g.pick(1, 4)
        same.pop("auto_pad", None)
        size = [
            (m - 1) * s + k - pads[i] - pads[i + dims] for i, (m, s, k) in enumerate(zip(g.shape[2:], strides, kernel))
        ]
        g.add("ConvTranspose", g.normal(c, n, *kernel, scale=0.4), g.normal(n), shape=(g.shape[0], n, *size), **same)
    else:
        if kind == "AveragePool":
            same["count_include_pad"] = g.pick(0, 1)
        g.add(kind, shape=(*g.shape[:2], *size), **same)
    return None


def _move(g: Graph) -> None:
    kind = g.draw(
        st.sampled_from(["Transpose", "Reshape", "Flatten", "Slice", "Gather", "Pad", "Tile", "Concat", "Unsqueeze"])
    )
    rank = len(g.shape)
    if kind == "Transpose":
        perm = [0, *g.draw(st.permutations(range(1, rank)))]
        g.add("Transpose", perm=perm, shape=tuple(g.shape[p] for p in perm))
    elif kind == "Reshape":
        rest = int(np.prod(g.shape[1:]))
        first = g.draw(st.sampled_from([d for d in range(1, rest + 1) if rest % d == 0]))
        g.add("Reshape", g.constant([0, first, -1], np.int64), shape=(g.shape[0], first, rest // first))
    elif kind == "Flatten":
        g.add("Flatten", shape=(g.shape[0], int(np.prod(g.shape[1:]))))
    elif kind == "Slice":
        axis = g.axis(1)
        back = g.pick(0, 2) == 0 and g.opset >= 10
        start, size = g.pick(0, g.shape[axis] - 1), g.shape[axis]
        shape = list(g.shape)
        shape[axis] = start + 1 if back else size - start
        if g.opset < 10:
            g.add("Slice", starts=[start], ends=[2**31 - 1], axes=[axis], shape=tuple(shape))
        else:
            ends = [-(2**40)] if back else [2**31 - 1]
            parts = [g.constant(v, np.int64) for v in ([start], ends, [axis - rank], [-1 if back else 1])]
            g.add("Slice", *parts, shape=tuple(shape))
    elif kind == "Gather":
        axis = g.axis(1)
        index = g.rng.integers(-g.shape[axis], g.shape[axis], g.draw(st.sampled_from([(), (2,), (1, 3)])))
        g.add(
            "Gather",
            g.constant(index, np.int64),
            axis=axis,
            shape=(*g.shape[:axis], *index.shape, *g.shape[axis + 1 :]),
        )
    elif kind == "Pad":
        ends = [0] + [g.pick(0, 2) for _ in range(rank - 1)]
        shape = tuple(n + e for n, e in zip(g.shape, ends))
        pads = [0] * rank + ends
        if g.opset < 11:
            g.add("Pad", pads=pads, value=0.5, shape=shape)
        else:
            g.add("Pad", g.constant(pads, np.int64), g.constant(0.5), shape=shape)
    elif kind == "Tile":
        times = [1] + [g.pick(1, 2) for _ in range(rank - 1)]
        g.add("Tile", g.constant(times, np.int64), shape=tuple(n * t for n, t in zip(g.shape, times)))
    elif kind == "Concat":
        axis, before = g.axis(1), g.name
        shape = list(g.shape)
        g.add("Relu")
        shape[axis] *= 2
        g.add("Concat", before, axis=axis, shape=tuple(shape))
    else:
        axis = g.axis(1)
        more, attrs = ([g.constant([axis], np.int64)], {}) if g.opset >= 13 else ([], {"axes": [axis]})
        g.add("Unsqueeze", *more, shape=(*g.shape[:axis], 1, *g.shape[axis:]), **attrs)


def _reduce(g: Graph) -> None:
    kinds = [
        "ReduceSum",
        "ReduceMean",
        "ReduceMax",
        "ReduceMin",
        "ReduceL1",
        "ReduceL2",
        "ReduceSumSquare",
        "ReduceLogSumExp",
    ]
    kind = g.draw(st.sampled_from([*kinds, "Softmax", "LogSoftmax", "CumSum", "ArgMax", "TopK"]))
    axis = g.axis(1)
    if kind in ("Softmax", "LogSoftmax"):
        g.add(kind, axis=axis)
    elif kind == "CumSum":
        if g.opset < 11:
            return _activation(g)
        g.add("CumSum", g.constant(axis, np.int64), exclusive=g.pick(0, 1), reverse=g.pick(0, 1))
    elif kind == "ArgMax":
        shape = (*g.shape[:axis], 1, *g.shape[axis + 1 :])
        g.add("ArgMax", axis=axis, keepdims=1, shape=shape)
        g.add("Cast", to=TensorProto.FLOAT)
    elif kind == "TopK":
        k = g.pick(1, g.shape[axis])
        more = [g.constant([k], np.int64)] if g.opset >= 10 else []
        attrs = {} if g.opset >= 10 else {"k": k}
        out = f"v{len(g.nodes)}"
        g.nodes.append(
            helper.make_node("TopK", [g.name, *more], [out, out + "_at"], name=out + "_top", axis=axis, **attrs)
        )
        g.name, g.shape = out, (*g.shape[:axis], k, *g.shape[axis + 1 :])
    else:
        by_input = g.opset >= (13 if kind == "ReduceSum" else 18)
        keep = g.pick(0, 1)
        shape = (*g.shape[:axis], *([1] * keep), *g.shape[axis + 1 :])
        more, attrs = ([g.constant([axis], np.int64)], {}) if by_input else ([], {"axes": [axis]})
        g.add(kind, *more, keepdims=keep, shape=shape, **attrs)
    return None


def _norm(g: Graph) -> None:
    c = g.shape[1]
    if len(g.shape) >= 3 and g.pick(0, 1):
        g.add("InstanceNormalization", g.normal(c), g.normal(c), epsilon=1e-3)
    elif g.opset >= 17 and g.pick(0, 1):
        g.add("LayerNormalization", g.normal(g.shape[-1]), g.normal(g.shape[-1]), axis=-1)
    else:
        var = g.constant(g.rng.random(c) + 0.5)
        g.add("BatchNormalization", g.normal(c), g.normal(c), g.normal(c), var)


def _test(g: Graph) -> None:
    before, shape = g.name, g.shape
    g.add(g.draw(st.sampled_from(["Greater", "Less", "Equal"])), g.constant(0.25 if g.pick(0, 1) else 0.0))
    if g.opset < 11 and g.nodes[-1].op_type == "Equal":
        g.nodes[-1].op_type = "Greater"
    condition = g.name
    g.add("Sigmoid", first=before, shape=shape)
    g.add("Where", g.name, before, first=condition)


def _clip(g: Graph) -> None:
    if g.opset < 11:
        g.add("Clip", min=-0.5, max=1.0)
    else:
        g.add("Clip", g.constant(-0.5), *([g.constant(1.0)] if g.pick(0, 1) else []))


def _by_shape(g: Graph) -> None:
    """A Reshape to sizes that the graph computes: [batch, -1]."""
    n = len(g.nodes)
    g.nodes += [helper.make_node("Shape", [g.name], [f"s{n}"]),
                helper.make_node("Gather", [f"s{n}", g.constant([0], np.int64)], [f"b{n}"], axis=0),
                helper.make_node("Concat", [f"b{n}", g.constant([-1], np.int64)], [f"r{n}"], axis=0)]  # fmt: skip
    g.add("Reshape", f"r{n}", shape=(g.shape[0], int(np.prod(g.shape[1:]))))


def _quantized(g: Graph) -> None:
    """A QuantizeLinear and its DequantizeLinear, signed or not."""
    if g.opset < 10:
        return _activation(g)
    kind, zero = g.draw(st.sampled_from([(np.uint8, 117), (np.int8, -3), (np.uint8, 0), (np.int8, 0)]))
    scale, point = g.constant(0.03125), g.constant(zero, kind)
    g.add("QuantizeLinear", scale, point)
    g.add("DequantizeLinear", scale, point)
    return None


MAKERS: tuple[Callable[[Graph], None], ...] = (
    _activation, _binary, _gemm, _window, _move, _reduce, _norm, _test, _clip, _by_shape, _quantized,
)  # fmt: skip


@st.composite
def graphs(draw: Any, newest: int = 21, longest: int = 5) -> tuple[Any, np.ndarray]:
    """A model with an open batch, and an input for it."""
    opset = draw(st.integers(9, newest))
    rank = draw(st.integers(2, 4))
    shape = (draw(st.sampled_from([1, 2, 3])), *(draw(st.integers(2, 7)) for _ in range(rank - 1)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    g = Graph(opset, shape, draw, rng)
    for _ in range(draw(st.integers(1, longest))):
        if len(g.shape) < 2 or np.prod(g.shape) > 2000:
            break
        draw(st.sampled_from(MAKERS))(g)
    x = rng.standard_normal(shape).astype(np.float32)
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape[1:]])
    out = helper.make_tensor_value_info(g.name, TensorProto.FLOAT, [None] * len(g.shape))
    graph = helper.make_graph(g.nodes, "random", [value], [out], g.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8 if opset < 19 else 10
    return model, x
