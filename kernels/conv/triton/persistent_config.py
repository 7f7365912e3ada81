"""A streamed network of convolutions as operations over values, and its numbers in the order in which the kernel reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.registry import operator
from rtaccel.core.stage import QParams, Stage, Value
from rtaccel.formats.int8 import inverse_scale
from rtaccel.kernels._gpu.triton_spec import power_of_two
from rtaccel.kernels.conv import lowering
from rtaccel.kernels.linear.contract import make_stage as make_linear

MAX_MESSAGE = 512
"""Words of a message: each thread polls one, and 16 warps are the most."""

THREAD_REGISTERS = 128
"""Of a thread: what 16 warps may have."""

REGISTERS = 64
"""Of them for weights. Not measured on a card."""

STREAMED_REGISTERS = 40
"""Of them where not all weights stay, with one tap that is read again: its addresses take the rest."""

LARGEST_TILE = 16
"""Of them for a tap that is read again: a layer of 256 inputs and 128 outputs, padded."""


@dataclass(frozen=True)
class Operation:
    """kind: "quantize", "layer" or "join". source, other: values, 0 for x and i + 1 for the result of operation i; -1 for none.
    width: of the result. taps, dilation: 1 for what has no ring. low: of a layer, what the contract's `lower` gives. ring: the
    state of a convolution, as the stream's stages have it."""

    kind: str
    source: int
    width: int
    int8: bool
    other: int = -1
    taps: int = 1
    dilation: int = 1
    inputs: int = 0
    activation: str = "none"
    parameter: float = 0.0
    inverse: float = 1.0
    zero_point: int = 0
    low: Any = None
    ring: Value | None = None

    @property
    def reach(self) -> int:
        return (self.taps - 1) * self.dilation


@dataclass(frozen=True)
class KernelConfig:
    """inputs: K, numbers of a time step."""

    inputs: int
    operations: tuple[Operation, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(o.kind for o in self.operations)

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(o.width for o in self.operations)

    @property
    def taps(self) -> tuple[int, ...]:
        return tuple(o.taps for o in self.operations)

    @property
    def dilations(self) -> tuple[int, ...]:
        return tuple(o.dilation for o in self.operations)

    @property
    def others(self) -> tuple[int, ...]:
        return tuple(o.other for o in self.operations)

    @property
    def padded_inputs(self) -> tuple[int, ...]:
        return tuple(padded(o.inputs) for o in self.operations)

    @property
    def padded_outputs(self) -> tuple[int, ...]:
        return tuple(padded(o.width) for o in self.operations)

    @property
    def tiles(self) -> tuple[int, ...]:
        """The first tile of weights that is held of each operation."""
        counts = self.held
        return tuple(sum(counts[:i]) for i in range(len(counts)))

    @property
    def rows(self) -> tuple[int, ...]:
        """Of each ring, 0 for none: a power of two, so that a number that wraps round goes on in it."""
        return tuple(power_of_two(o.reach + 1, 2, 1 << 30) if o.taps > 1 else 0 for o in self.operations)

    @property
    def rings(self) -> tuple[int, ...]:
        """Where each ring begins, in words, and their end."""
        starts = [0]
        for rows, c in zip(self.rows, self.padded_inputs):
            starts.append(starts[-1] + rows * c // 4)
        return tuple(starts)

    @property
    def memory(self) -> int:
        """For how many further time steps x reaches: the longest way through the rings."""
        receptive_field = [0]
        for o in self.operations:
            receptive_field.append(
                o.reach + max(receptive_field[o.source], receptive_field[o.other] if o.other >= 0 else 0)
            )
        return receptive_field[-1]

    def tile_registers(self, warps: int) -> list[tuple[int, int]]:
        """(taps, registers of a thread for each) of the operations, (0, 0) for what is no layer; a tile takes one at least."""
        return [
            (o.taps, max(n * c // 4 // (32 * warps), 1)) if o.kind == "layer" else (0, 0)
            for o, n, c in zip(self.operations, self.padded_outputs, self.padded_inputs)
        ]

    def registers(self, warps: int) -> int:
        """Of all weights in a thread."""
        return sum(taps * each for taps, each in self.tile_registers(warps))

    @property
    def num_warps(self) -> int:
        """As few as hold the weights, and four at least; of 16 the registers may not be enough."""
        fewest = next((w for w in (4, 8) if self.registers(w) <= REGISTERS), 16)
        return max(fewest, power_of_two(self.inputs + 1, 16, MAX_MESSAGE) // 32)

    @property
    def whole(self) -> bool:
        """Whether the registers hold all weights."""
        return self.registers(self.num_warps) <= REGISTERS

    @property
    def held(self) -> tuple[int, ...]:
        """The newest taps of each operation that stay in registers: all, or the one that an answer waits for, or none."""
        tiles = self.tile_registers(self.num_warps)
        if self.whole:
            return tuple(taps for taps, _ in tiles)
        room, counts = STREAMED_REGISTERS - max(each for _, each in tiles), [0] * len(tiles)
        for i, (taps, each) in enumerate(tiles):
            if taps and each <= room:
                counts[i], room = 1, room - each
        return tuple(counts)

    @property
    def spare(self) -> int:
        """Which of the sums is 0, behind those of the first layer and its zero point; 0 where the kernel has no use for it."""
        first = next(n for n, o in zip(self.padded_outputs, self.operations) if o.kind == "layer")
        return 0 if self.whole else 2 * first + 1

    def constants(self) -> dict[str, Any]:
        return {
            "K": self.inputs, "N": self.widths[-1], "PADDED_K": padded(self.inputs), "MEMORY": self.memory,
            "KINDS": self.kinds, "SOURCES": tuple(o.source for o in self.operations), "OTHERS": self.others,
            "TILES": self.tiles, "TAPS": self.taps, "HELD": self.held, "DILATIONS": self.dilations,
            "RINGS": self.rings, "ROWS": self.rows,
            "WORDS": tuple(c // 4 for c in self.padded_inputs), "OUTPUTS": self.padded_outputs,
            "INT8": tuple(o.int8 for o in self.operations),
            "ACTIVATIONS": tuple(o.activation for o in self.operations),
            "SPARE": self.spare, "PAST": self.rings[-1],
            "SET": sum(self.set_sizes), "PARAMS": self.set_sizes[0], "SUMS": sum(self.set_sizes[:2]),
        }  # fmt: skip

    @property
    def set_sizes(self) -> tuple[int, int, int]:
        """Numbers of words, of params and of sums, as Operands has them."""
        layers = [
            (taps, n, c) for kind, taps, n, c in zip(self.kinds, self.taps, self.padded_outputs, self.padded_inputs)
            if kind == "layer"
        ]  # fmt: skip
        words, outputs = sum(taps * n * c // 4 for taps, n, c in layers), sum(n for _, n, _ in layers)
        return words, 2 * outputs + 4 * len(self.operations), 2 * outputs + 4 * len(layers)


def padded(width: int) -> int:
    return power_of_two(width, 16, 1 << 20)


def select_config(stages: Sequence[Stage]) -> KernelConfig | str:
    """The form of a stream's stages, from x to the one value that nothing reads; or why there is none, after "a network that"."""
    names = {stages[0].inputs[0].name: 0}
    operations: list[Operation] = []
    for stage in stages:
        reason = _taken(stage)
        if reason is not None:
            return f"{reason}: {stage.name} ({stage.op})"
        reads = [v for v in stage.inputs if not (lowering.is_stream(stage) and v is stage.inputs[1])]
        if any(v.name not in names for v in reads):
            return "has one input"
        sources = [names[v.name] for v in reads]
        if stage.op == "conv" and reads[0].dtype == "float32":
            quant = lowering.input_quant(stage)
            assert quant is not None
            operations.append(_rounded(sources[0], reads[0].width, quant))
            sources[0] = len(operations)
        operations.append(_operation(stage, sources))
        names[stage.outputs[0].name] = len(operations)
    config = KernelConfig(stages[0].inputs[0].width, tuple(operations))
    read = {o.source for o in operations} | {o.other for o in operations}
    if operations[-1].int8 or set(range(len(operations))) - read:
        return "gives one float32 value"
    if config.inputs + 1 > MAX_MESSAGE or config.widths[-1] > MAX_MESSAGE:
        return f"has at most {MAX_MESSAGE - 1} inputs and {MAX_MESSAGE} outputs"
    largest = max(each for _, each in config.tile_registers(config.num_warps))
    if not config.whole and largest > LARGEST_TILE:
        threads = 32 * config.num_warps
        return f"has at most {LARGEST_TILE} words of a tap in each of {threads} threads, when padded, not {largest}"
    return config


def _taken(stage: Stage) -> str | None:
    """None, or what a stage would have to be."""
    if stage.op == "quantize":
        return None if len(stage.outputs) == 1 else "has static scales"
    if stage.op in ("conv", "linear"):
        if stage.tensors["weight"].dtype != torch.int8 or "group_scale" in stage.tensors:
            return "is W8A8 throughout"
        if stage.op == "conv":
            if not lowering.is_stream(stage):
                return "has convolutions over time steps alone"
            return None if lowering.input_quant(stage) is not None else "has static scales"
        return None if len(stage.inputs) == 1 and stage.inputs[0].quant is not None else "has static scales"
    if stage.op == "pointwise":
        plain = stage.attrs.get("join", "add") == "add" and "scale" not in stage.tensors
        if plain and all(v.dtype == "float32" for v in stage.inputs):
            return None
    return "consists of convolutions, linear layers, activations and sums"


def _rounded(source: int, width: int, quant: QParams) -> Operation:
    return Operation("quantize", source, width, True, inverse=inverse_scale(quant), zero_point=quant.zero_point)


def _operation(stage: Stage, sources: list[int]) -> Operation:
    y = stage.outputs[0]
    if stage.op == "quantize":
        assert y.quant is not None
        return _rounded(sources[0], y.width, y.quant)
    low = operator(stage.op).lower(stage)
    conv = stage.op == "conv"
    return Operation(
        "join" if stage.op == "pointwise" else "layer",
        sources[0],
        y.width,
        y.dtype == "int8",
        other=sources[1] if len(sources) > 1 else -1,
        taps=stage.attrs["kernel"][1] if conv else 1,
        dilation=stage.attrs.get("dilation", (1, 1))[1] if conv else 1,
        inputs=0 if stage.op == "pointwise" else stage.inputs[0].width,
        activation=str(low["activation"]),
        parameter=float(low["activation_parameter"]),
        inverse=float(low.get("y_inv_scale", 1.0)),
        zero_point=int(low.get("y_zero_point", 0)),
        low=low,
        ring=stage.inputs[1] if conv else None,
    )


@dataclass(frozen=True)
class Operands:
    """A network's numbers as the kernel reads them, and its rings, on the device."""

    words: Tensor
    params: Tensor
    sums: Tensor
    rings: Tensor

    @classmethod
    def of(cls, config: KernelConfig, device: str) -> Operands:
        words, params, sums = [], [], []
        for o, n, c in zip(config.operations, config.padded_outputs, config.padded_inputs):
            if o.kind == "layer":
                given = between_all(o.low["weight"].cpu().reshape(o.width, -1, o.taps), o.inputs)
                weight = torch.zeros((o.taps, n, c), dtype=torch.int8)
                weight[:, : o.width, : o.inputs] = given.permute(2, 0, 1)
                words.append(weight.view(torch.int32).flatten())
                zero_point = int(o.low["x_zero_point"])
                compensation = -zero_point * weight.sum(2, dtype=torch.int32)
                zeros = torch.tensor([zero_point] * 4, dtype=torch.int8).view(torch.int32)
                sums += [compensation[-1], compensation[:-1].sum(0, dtype=torch.int32), zeros, zeros.new_zeros(3)]
                for name in ("multiplier", "offset"):
                    params.append(torch.nn.functional.pad(o.low[name].cpu().float(), (0, n - o.width)))
            params.append(torch.tensor([o.parameter, o.inverse, float(o.zero_point), 0.0]))
        rings = torch.zeros(config.rings[-1] + 2, dtype=torch.int32)
        assert (sum(map(len, words)), sum(map(len, params)), sum(map(len, sums))) == config.set_sizes
        return cls(*(t.contiguous().to(device) for t in (torch.cat(words), torch.cat(params), torch.cat(sums), rings)))

    @property
    def joined(self) -> dict[str, Tensor]:
        """Words, params and sums one after another: the kernel reads all of them by one address."""
        return {"set": torch.cat([self.words, self.params.view(torch.int32), self.sums])}


def between_all(weight: Tensor, inputs: int) -> Tensor:
    """A weight [N, C / groups, taps] as [N, C, taps], with zeros between the groups."""
    n, each, taps = weight.shape
    if each == inputs:
        return weight
    outputs = torch.arange(n)[:, None]
    channels = outputs // (n * each // inputs) * each + torch.arange(each)[None, :]
    whole = weight.new_zeros((n, inputs, taps))
    whole[outputs, channels] = weight
    return whole


def example(widths: tuple[int, ...], taps: int, outputs: int, residual: bool = True) -> tuple[Stage, ...]:
    """A stream for the checks: convolutions of dilation 1, 2, 4, ... with relu, residuals where widths allow, a linear head."""
    g = torch.Generator().manual_seed(sum(widths))
    quants = [QParams(0.03 + 0.001 * i, 3 * i - 20) for i in range(len(widths))]
    stages: list[Stage] = []
    x = Value("x", widths[0])
    q = Value("q0", widths[0], "int8", quants[0])
    stages.append(Stage("quantize", "q0", (x,), (q,), {}, {}))
    before: Value | None = None
    for i, (c, n) in enumerate(pairwise(widths)):
        reach = (taps - 1) << i
        ring = Value(f"ring{i}", c, "int8", quants[i], reach + 1)
        y, following = Value(f"y{i}", n), Value(f"q{i + 1}", n, "int8", quants[i + 1])
        others = (before,) if residual and before is not None and before.width == n else ()
        stages.append(Stage(
            "conv", f"conv{i}", (q, ring, *others), (y, ring),
            {
                "weight": torch.randint(-127, 128, (n, c, 1, taps), generator=g, dtype=torch.int8),
                "weight_scale": torch.full((n,), 0.02 / (c * taps) ** 0.5), "bias": torch.randn(n, generator=g),
            },
            {"stream": 1, "kernel": (1, taps), "dilation": (1, 1 << i), "groups": 1, "activation": "relu"},
        ))  # fmt: skip
        stages.append(Stage("quantize", f"q{i + 1}", (y,), (following,), {}, {}))
        q, before = following, y
    head = make_linear(widths[-1], outputs, "static")
    stages.append(Stage("linear", "head", (q,), (Value("y", outputs),), head.tensors, head.attrs))
    return tuple(stages)
