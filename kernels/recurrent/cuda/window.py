"""The stack of window.cu as a kernel of a graph: a whole window in one launch, with all weights on the chip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.registry import Prepared
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.kernels._gpu import cuda_launch
from rtaccel.kernels._gpu.cuda_nvrtc import PERSISTENT_FILES, CudaKernel
from rtaccel.kernels._persistent.card import Card
from rtaccel.kernels.recurrent.cuda.kernel import Operands
from rtaccel.kernels.recurrent.cuda.window_config import WindowConfig, select_window
from rtaccel.kernels.recurrent.layout import Geometry, takes_lengths
from rtaccel.kernels.recurrent.triton.stack import check_inputs, check_lengths

FILES = (
    *PERSISTENT_FILES, "recurrent/cuda/cells.h", "recurrent/cuda/config.h", "recurrent/cuda/lengths.h",
    "recurrent/cuda/stack.h", "recurrent/cuda/weights.h",
)  # fmt: skip

PARAMETERS = (
    ("x_ptr", "*i8"), ("y_ptr", "*i8"), ("counts_ptr", "*i64"), ("h0_ptr", "*fp32"), ("c0_ptr", "*fp32"), ("hn_ptr", "*fp32"),
    ("cn_ptr", "*fp32"), ("words_ptr", "*i32"), ("params_ptr", "*fp32"), ("compensation_ptr", "*i32"), ("scales_ptr", "*fp32"),
    ("x_inverse", "fp32"), ("x_zero_point", "i32"), ("h_inverse", "fp32"), ("y_inverse", "fp32"), ("y_zero_point", "i32"),
    ("first_stream", "i32"),
)  # fmt: skip
"""x and y by their addresses alone: int8 or float32, as the form has it."""

DECLARED: Mapping[str, tuple[str, Geometry, int, int]] = {
    "lstm A int8": ("lstm", Geometry(100, layers=2, time=50, batch_first=1, last_only=1), 100, 0),
    "lstm A int4": ("lstm", Geometry(100, layers=2, time=50, batch_first=1, last_only=1), 100, 32),
    "lstm B int8": ("lstm", Geometry(200, layers=3, time=100, batch_first=1), 250, 0),
    "lstm B int4": ("lstm", Geometry(200, layers=3, time=100, batch_first=1), 250, 32),
    "gru 64-128 int8": ("gru", Geometry(128, time=20, batch_first=1), 64, 0),
}
"""Op, geometry, inputs and group of int4 weights of the windows that are compiled for every architecture without a card."""

MAX_STREAMS = 65535
"""Of a launch: they are along the second axis of a grid."""


@dataclass(frozen=True)
class Window:
    """What a window's kernel is made of beside its cut: of streams that begin with states, that give those after (kept), and that
    say their lengths; of x and y in int8 or float32."""

    op: str
    config: WindowConfig
    states: bool = False
    counted: bool = False
    longest: bool = False
    x: str = "float32"
    y: str = "float32"
    kept: bool = False

    @classmethod
    def of(cls, problem: Problem, config: WindowConfig) -> Window:
        counted = takes_lengths(problem.in_dtypes)
        return cls(
            problem.op, config, len(problem.in_widths) > 1 + counted, counted, bool(problem.attrs.get("longest")),
            problem.in_dtypes[0], problem.out_dtypes[0], len(problem.out_widths) > 1,
        )  # fmt: skip

    @property
    def definitions(self) -> dict[str, int]:
        g = self.config.geometry
        return {
            **self.config.definitions(), "RTA_TIME": g.time, "RTA_BATCH": g.batch, "RTA_BATCH_FIRST": int(bool(g.batch_first)),
            "RTA_LAST": int(bool(g.last_only)), "RTA_STATES": int(self.states), "RTA_AFTER": int(self.kept),
            "RTA_COUNTED": int(self.counted), "RTA_LONGEST": int(self.longest),
            "RTA_X8": int(self.x == "int8"), "RTA_Y8": int(self.y == "int8"),
        }  # fmt: skip

    @property
    def name(self) -> str:
        g, config = self.config.geometry, self.config
        weights = f"int4g{config.group}" if config.group else "int8"
        named = {
            "_states": self.states, "_kept": self.kept and not self.states, "_last": g.last_only, "_first": g.batch_first,
            "_lengths": self.counted, "_longest": self.longest,
        }  # fmt: skip
        extras = "".join(name for name, there in named.items() if there)
        sizes = f"T{g.time}_B{g.batch}_K{config.inputs}_H{g.hidden}_L{g.layers}_P{config.parts}"
        return f"{self.op}_window_{weights}_{sizes}_{self.x}_{self.y}{extras}"

    @property
    def kernel(self) -> CudaKernel:
        config = self.config
        return CudaKernel(
            "recurrent/cuda/window.cu", "rtaccel_window", PARAMETERS, num_warps=config.threads // 32, name=self.name,
            includes=FILES, definitions=tuple(self.definitions.items()), shared_bytes=config.shared_bytes,
            cluster=config.parts if config.cluster else 0,
        )  # fmt: skip


def declared(name: str, card: Card) -> Window | None:
    """One of DECLARED, one stream, as it is for a card; None where that does not hold its weights."""
    op, geometry, inputs, group = DECLARED[name]
    config = select_window(geometry, inputs, 4 if op == "lstm" else 3, group, 1, card)
    return None if config is None else Window(op, config)


def unsupported(problem: Problem) -> str | None:
    """None, or why a stage is none of the kernel's, whatever its size."""
    geometry = Geometry.of(problem.attrs)
    if problem.weight_format not in (WeightFormat.INT8, WeightFormat.INT4):
        return f"has int8 or int4 weights, not {problem.weight_format}"
    if problem.attrs.get("layout", "dense") != "dense":
        return "computes dense weights"
    if geometry.time == 1:
        return "computes a window, not one time step"
    if geometry.directions != 1:
        return "runs forwards, not in both directions"
    if problem.in_dtypes[0] == "float32" and "x_scale" not in problem.attrs:
        return "quantizes x with a static scale"
    if group_of(problem) % 32:
        return f"has int4 weights in groups that 32 divides, not {group_of(problem)}"
    return None


def group_of(problem: Problem) -> int:
    """Of int4 weights; 0 for int8."""
    return int(problem.attrs["group_size"]) if problem.weight_format is WeightFormat.INT4 else 0


def prepared(stage: Stage, problem: Problem, config: WindowConfig, low: Mapping[str, Any]) -> Prepared:
    """low: what the contract's `lower` gives. Any number of samples."""
    form, device = Window.of(problem, config), problem.device
    launch, operands = cuda_launch.bind(form.kernel), Operands.of(low, None, config)
    tensors = {name: t.to(device) for name, t in operands.tensors.items() if not name.startswith("head_")}
    scalars, outputs, none = operands.scalars, stage.outputs, tensors["params_ptr"]

    def call(*inputs: Tensor) -> tuple[Tensor, ...]:
        check_inputs(stage, inputs)
        check_lengths(stage, inputs)
        x, samples, states = inputs[0], inputs[0].shape[0], inputs[1 + form.counted :]
        made = [torch.empty((samples, *v.shape), dtype=getattr(torch, v.dtype), device=x.device) for v in outputs]
        before, after = (*states, none, none), (*made[1:], none, none)
        streams = samples * config.geometry.batch
        for first in range(0, streams, MAX_STREAMS):
            launch(
                (config.parts, min(MAX_STREAMS, streams - first)), x_ptr=x, y_ptr=made[0],
                counts_ptr=inputs[1] if form.counted else none, h0_ptr=before[0], c0_ptr=before[1], hn_ptr=after[0],
                cn_ptr=after[1], **tensors, **scalars, first_stream=first,
            )  # fmt: skip
        return tuple(made)

    return call
