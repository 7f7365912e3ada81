"""A float32 layer of layer.cu as a kernel of a graph, and its weights as the kernel reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from rtaccel.kernels._gpu import cuda_launch
from rtaccel.kernels._gpu.cuda_nvrtc import CudaKernel
from rtaccel.kernels._persistent.card import Card
from rtaccel.kernels.recurrent.cuda.float32.config import LayerConfig, select_layer
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.triton.float32 import GATES, LayerForm, States

FILES = ("_persistent/cuda_words.h", "_persistent/cuda_numbered.h", "recurrent/cuda/lengths.h")

PARAMETERS = (
    ("gx_ptr", "*fp32"), ("y_ptr", "*fp32"), ("counts_ptr", "*i64"), ("h0_ptr", "*fp32"), ("c0_ptr", "*fp32"),
    ("hn_ptr", "*fp32"), ("cn_ptr", "*fp32"), ("words_ptr", "*fp32"), ("bias_n_ptr", "*fp32"), ("first_stream", "i32"),
    ("state_rows", "i32"), ("first_state", "i32"),
)  # fmt: skip

CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
"""RTA_CELL of an operator."""

DECLARED: Mapping[str, tuple[str, Geometry]] = {
    "lstm 100": ("lstm", Geometry(100, time=50, batch_first=1, last_only=1)),
    "lstm 200": ("lstm", Geometry(200, time=100, batch_first=1)),
    "lstm 512": ("lstm", Geometry(512, time=20)),
    "gru 128": ("gru", Geometry(128, time=20, batch_first=1)),
    "rnn_tanh 64 in both directions": ("rnn_tanh", Geometry(64, time=50, directions=2)),
}
"""Op and geometry of the layers that are compiled for every architecture without a card."""

MAX_STREAMS = 65535
"""Of a launch, with those of the other direction: they are along the second axis of a grid."""


@dataclass(frozen=True)
class CudaLayer:
    form: LayerForm
    config: LayerConfig

    @property
    def definitions(self) -> dict[str, int]:
        form, g = self.form, self.form.geometry
        return {
            **self.config.definitions(), "RTA_CELL": CELLS.index(form.op), "RTA_TIME": g.time, "RTA_BATCH": g.batch,
            "RTA_DIRECTIONS": g.directions, "RTA_BATCH_FIRST": int(bool(g.batch_first)), "RTA_LAST": int(form.last_only),
            "RTA_GIVEN": int(form.given), "RTA_STATES": int(form.kept), "RTA_COUNTED": int(form.lengths),
            "RTA_LONGEST": int(form.longest),
        }  # fmt: skip

    @property
    def name(self) -> str:
        form, g = self.form, self.form.geometry
        named = {
            "_first": g.batch_first, "_last": form.last_only, "_given": form.given, "_states": form.kept,
            "_lengths": form.lengths, "_longest": form.longest,
        }  # fmt: skip
        extras = "".join(name for name, there in named.items() if there)
        return f"{form.op}_layer_float32_T{g.time}_B{g.batch}_H{g.hidden}_D{g.directions}_P{self.config.parts}{extras}"

    @property
    def kernel(self) -> CudaKernel:
        config = self.config
        return CudaKernel(
            "recurrent/cuda/float32/layer.cu", "rtaccel_layer", PARAMETERS, num_warps=config.threads // 32, name=self.name,
            includes=FILES, definitions=tuple(self.definitions.items()), shared_bytes=config.shared_bytes,
            cluster=config.parts if config.parts > 1 else 0,
        )  # fmt: skip


def declared(name: str, card: Card) -> CudaLayer | None:
    """One of DECLARED, one stream without states, as it is for a card; None where that does not hold its weights."""
    op, g = DECLARED[name]
    config = select_layer(g.hidden, GATES[op], g.time, g.directions, card)
    return None if config is None else CudaLayer(LayerForm(op, g, 0, False, False), config)


def packed(weights: Tensor, directions: int, config: LayerConfig) -> Tensor:
    """w_h [D * gates * H, H] -> [D, programs, steps, threads, 4]: what thread (unit, lane) has in step chunk * gates + gate is
    gate's row of its unit, from 4 * (chunk * lanes + lane) on; zeros where there is nothing."""
    gates, parts, units, lanes, chunks = config.gates, config.parts, config.units, config.lanes, config.chunks
    full = weights.new_zeros(directions, gates, config.wide, chunks * lanes * 4)
    full[:, :, : config.hidden, : config.hidden] = weights.view(directions, gates, config.hidden, config.hidden)
    lines = full.view(directions, gates, parts, units, chunks, lanes, 4).permute(0, 2, 4, 1, 3, 5, 6)
    made = weights.new_zeros(directions, parts, config.steps, config.threads, 4)
    made[:, :, :, : units * lanes] = lines.reshape(directions, parts, config.steps, units * lanes, 4)
    return made


class ThroughTime:
    """What goes through time of a layer, in one launch (`triton.float32.Through`)."""

    def __init__(self, layer: LayerForm, own: Mapping[str, Tensor], config: LayerConfig) -> None:
        self._form, self._config = layer, config
        self._launch = cuda_launch.bind(CudaLayer(layer, config).kernel)
        words = packed(own["w_h"], layer.geometry.directions, config)
        self._weights = {"words_ptr": words, "bias_n_ptr": own.get("bias_n", words)}

    def __call__(self, m: int, fixed: dict[str, Tensor], before: States, after: States) -> None:
        g, none = self._form.geometry, fixed["gx_ptr"]
        states = {f"{name}_ptr": none for name in ("counts", "h0", "c0", "hn", "cn")}
        for first, count in _launches(m * g.batch * g.directions):
            self._launch(
                (self._config.parts, count), **{**states, **fixed, **before, **after}, **self._weights, first_stream=first,
                state_rows=g.layers * g.directions, first_state=self._form.index * g.directions,
            )  # fmt: skip


def _launches(streams: int) -> Iterator[tuple[int, int]]:
    for first in range(0, streams, MAX_STREAMS):
        yield first, min(MAX_STREAMS, streams - first)
