"""How a recurrent stack is cut for the kernels of this folder, and its weights in the order in which they read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rtaccel.core import settings
from rtaccel.core.stage import Problem
from rtaccel.core.weight_format import WeightFormat
from rtaccel.kernels._gpu import triton_int4
from rtaccel.kernels._gpu.triton_spec import power_of_two
from rtaccel.kernels.recurrent.layout import MAX_K, Geometry

NUM_WARPS = 8
THREADS = 32 * NUM_WARPS
MAX_WORDS = 128 * THREADS
"""int32 words of weights that a program holds at a time, 128 a thread: with them and the rest a thread stays within the 255
registers that 8 warps may have."""

WHOLE_WORDS = 112 * THREADS
"""Words of a stack above which it is cut into more programs rather than held by these. Not measured on a card."""

CHUNK = 128
"""Words of a tile that one warp reads at once: a longer row would be spread over warps, and every sum cross them."""

INT4_CHUNK = 32
"""The same in int8 words of x where weights are int4: a row of 128 lies in four lanes, which hand their sums on in order."""

MAX_GROUPS = 256
"""Groups of all gates, halves and layers: their sums are written out one by one, and code grows with them."""

FEWEST_UNITS = 8
MULTIPROCESSORS = 132
"""What is assumed where no card is seen: those of an H100."""


class Cut(NamedTuple):
    """How a stack lies in its programs; a constant of the kernels.

    GATES of H units in LAYERS layers, of K inputs. Each of PARTS programs, of THREADS threads, has BU units of every layer. It
    reads x as NX chunks of CX words and h as NH of CH; WX and WH are words of weights in a row of a tile. RESIDENT: layers whose
    weights stay in registers. GROUP: of int4 weights, 0 for int8 ones.

    What a program has: FIRST_WORDS of weights in the first layer, OTHER_WORDS in each half of a later one (x or h); SCALES_X and
    SCALES_H of int4 weights, alike; NUMBERS of a layer. SLOT: words of one exchange.
    """

    GATES: int
    LAYERS: int
    RESIDENT: int
    K: int
    H: int
    BU: int
    CX: int
    NX: int
    CH: int
    NH: int
    PARTS: int
    THREADS: int
    GROUP: int
    ASM: bool
    WX: int
    WH: int
    FIRST_WORDS: int
    OTHER_WORDS: int
    SCALES_X: int
    SCALES_H: int
    NUMBERS: int
    SLOT: int


@dataclass(frozen=True)
class KernelConfig:
    """One cut of a stack. inputs: K. units: of each layer in a program (BU). parts: programs of a stream. resident: layers whose
    weights stay in registers. group: of int4 weights, 0 for int8 ones."""

    geometry: Geometry
    inputs: int
    gates: int
    units: int
    parts: int
    layers_in_registers: int
    group: int = 0

    @property
    def chunks_x(self) -> tuple[int, int]:
        """(words of a chunk, chunks) of x, int8 whatever the weights are."""
        return self._chunks(power_of_two(self.inputs, max(16, self.group), 1 << 20) // 4)

    @property
    def chunks_h(self) -> tuple[int, int]:
        words = self.units * power_of_two(self.parts, 1, 1 << 20) // 4
        if self.parts == 1 and not self.group:
            return words, 1
        return self._chunks(max(words, self.group // 4))

    def _chunks(self, words: int) -> tuple[int, int]:
        most = INT4_CHUNK if self.group else CHUNK
        return min(words, most), max(words // most, 1)

    @property
    def half_words(self) -> tuple[int, ...]:
        """Of each layer in one program, padded: its weights for x, and those for h."""
        (cx, nx), (ch, nh) = self.chunks_x, self.chunks_h
        if self.group:  # of a small tile every thread has a word, or a copy
            x, h = (n * max(self.units * c // 2, THREADS) for c, n in ((cx, nx), (ch, nh)))
        else:
            x, h = self.units * cx * nx, self.units * ch * nh
        return (self.gates * x, self.gates * h, *[self.gates * h] * (2 * (self.geometry.layers - 1)))

    @property
    def layer_words(self) -> tuple[int, ...]:
        halves = self.half_words
        return tuple(x + h for x, h in zip(halves[::2], halves[1::2]))

    @property
    def num_warps(self) -> int:
        """As few as hold the weights with 64 words a thread, at least four, and a thread for every word that is exchanged."""
        held = sum(self.layer_words[: self.layers_in_registers]) + max(
            self.half_words[2 * self.layers_in_registers :], default=0
        )
        return power_of_two(max(held // (64 * 32), -(-self.geometry.hidden // 128)), 4, NUM_WARPS)

    def cut(self) -> Cut:
        """What the kernels are specialized on."""
        (cx, nx), (ch, nh), gates, units = self.chunks_x, self.chunks_h, self.gates, self.units
        half = 2 if self.group else 1
        pairs_x, pairs_h = ((4 * w // self.group + 1) // 2 if self.group else 0 for w in (cx * nx, ch * nh))
        return Cut(
            GATES=gates, LAYERS=self.geometry.layers, RESIDENT=self.layers_in_registers, K=self.inputs,
            H=self.geometry.hidden, BU=units, CX=cx, NX=nx, CH=ch, NH=nh, PARTS=self.parts,
            THREADS=32 * self.num_warps, GROUP=self.group,
            ASM=not settings.triton_interpret(), WX=cx // half, WH=ch // half,
            FIRST_WORDS=gates * (nx * cx + nh * ch) // half * units, OTHER_WORDS=gates * nh * ch // half * units,
            SCALES_X=gates * pairs_x * units, SCALES_H=gates * pairs_h * units, NUMBERS=(3 * gates + (gates == 3)) * units,
            SLOT=nh * ch,
        )  # fmt: skip


def multiprocessors() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count)
    return MULTIPROCESSORS


def _layers_in_registers(kernel_config: KernelConfig) -> int | None:
    """How many first layers stay, with room for the largest half of the others; None where not even that fits."""
    words = kernel_config.layer_words
    for count in range(len(words), -1, -1):
        if sum(words[:count]) + max(kernel_config.half_words[2 * count :], default=0) <= MAX_WORDS:
            return count
    return None


def group_of(problem: Problem) -> int:
    return int(problem.attrs["group_size"]) if problem.weight_format is WeightFormat.INT4 else 0


def _units_alone(problem: Problem) -> int:
    """Units of a layer in a program that has all of them: a whole group of int4 weights at least, as its h is not exchanged."""
    return power_of_two(Geometry.of(problem.attrs).hidden, max(FEWEST_UNITS, group_of(problem)), 1 << 20)


def kernel_configs(problem: Problem, gates: int) -> list[KernelConfig]:
    """Every cut that fits a program, those with the fewest programs first."""
    geometry, inputs = Geometry.of(problem.attrs), problem.in_widths[0]
    found, alone = [], _units_alone(problem)
    units = alone
    while units >= FEWEST_UNITS:
        kernel_config = KernelConfig(geometry, inputs, gates, units, -(-geometry.hidden // units), 0, group_of(problem))
        layers_in_registers = _layers_in_registers(kernel_config)
        if layers_in_registers is not None and (kernel_config.parts > 1 or units == alone):
            found.append(replace(kernel_config, layers_in_registers=layers_in_registers))
        units //= 2
    return found


def select_config(problem: Problem, gates: int, most: int | None = None) -> KernelConfig | str:
    """The cut of a stack for `most` programs a stream (those that the device holds at once, shared by its streams), or why
    there is none: the fewest programs that keep all weights in registers, else the most that there are.

    In the interpreter, which runs one program after another, one program has everything.
    """
    geometry, inputs = Geometry.of(problem.attrs), problem.in_widths[0]
    if group_of(problem):
        in_order = 2 * geometry.layers * gates * -(-geometry.hidden // group_of(problem))
        if in_order > MAX_GROUPS:
            return (
                f"adds the groups of int4 weights one after another, up to {MAX_GROUPS} in a time step, not {in_order}"
            )
    if settings.triton_interpret():
        return KernelConfig(geometry, inputs, gates, _units_alone(problem), 1, geometry.layers, group_of(problem))
    streams = max(problem.rows * geometry.batch, 1)
    limit = max((most or multiprocessors()) // streams, 1)
    found = kernel_configs(problem, gates)
    fitting = [
        kernel_config
        for kernel_config in found
        if kernel_config.parts <= limit and kernel_config.parts * kernel_config.units <= 4 * THREADS
    ]
    if not fitting:
        fewest = min((kernel_config.parts for kernel_config in found), default=0)
        return (
            f"needs {fewest} programs at once for each of {streams} streams of {geometry.hidden} units, and there are "
            f"{limit}" if fewest else f"holds a layer of a program in registers, not {geometry.hidden} units"
        )  # fmt: skip
    whole = [f for f in fitting if f.layers_in_registers == geometry.layers and sum(f.layer_words) <= WHOLE_WORDS]
    return whole[0] if whole else fitting[-1]


def unsupported(problem: Problem) -> str | None:
    """None, or why the kernels do not compute a stage at all, however it is cut."""
    geometry = Geometry.of(problem.attrs)
    if problem.weight_format not in (WeightFormat.INT8, WeightFormat.INT4):
        return f"takes int8 or int4 weights, not {problem.weight_format}"
    if group_of(problem) not in (0, *triton_int4.GROUP_SIZES):
        return (
            f"takes int4 weights in groups of {', '.join(map(str, triton_int4.GROUP_SIZES))}, not {group_of(problem)}"
        )
    if geometry.directions != 1:
        return "runs forwards, not in both directions"
    if max(problem.in_widths[0], geometry.hidden) > MAX_K:
        return f"sums in int32, which holds widths up to {MAX_K}"
    return None


def _tiles(weight: Tensor, kernel_config: KernelConfig, chunk: int, chunks: int) -> Tensor:
    """int8 [gates * H, K] -> int32 [parts, gates * chunks * units * chunk words]."""
    units = kernel_config.parts * kernel_config.units
    padded = torch.zeros((kernel_config.gates, units, 4 * chunk * chunks), dtype=torch.int8)
    padded[:, : kernel_config.geometry.hidden, : weight.shape[1]] = weight.view(
        kernel_config.gates, -1, weight.shape[1]
    )
    words = padded.view(torch.int32).view(kernel_config.gates, kernel_config.parts, kernel_config.units, chunks, chunk)
    return words.permute(1, 0, 3, 2, 4).reshape(kernel_config.parts, -1)


def _int4_tiles(
    low: Mapping[str, Any], name: str, k: int, kernel_config: KernelConfig, chunk: int, chunks: int
) -> tuple[Tensor, Tensor]:
    """(words [parts, gates * chunks * units * chunk / 2], scales [parts, gates * pairs of groups * units]) of int4 weights."""
    hidden, units = kernel_config.geometry.hidden, kernel_config.parts * kernel_config.units
    words, scales = [], []
    for weight, group_scale in zip(
        low[name].view(kernel_config.gates, hidden, -1),
        low[f"{name}_group_scale"].view(kernel_config.gates, hidden, -1),
    ):
        q, scale = triton_int4.unpacked(weight, group_scale, k, kernel_config.group, units, 4 * chunk * chunks)
        tiles = triton_int4.pack_words(q).view(kernel_config.parts, kernel_config.units, chunks, chunk // 2)
        words.append(tiles.transpose(1, 2).reshape(kernel_config.parts, -1))
        scales.append(
            scale.view(-1, kernel_config.parts, kernel_config.units).transpose(0, 1).reshape(kernel_config.parts, -1)
        )
    return torch.cat(words, 1), torch.cat(scales, 1)


def _numbers(values: Tensor, kernel_config: KernelConfig) -> Tensor:
    """[rows * H] -> [parts, rows * units]."""
    rows = values.view(-1, kernel_config.geometry.hidden)
    padded = torch.nn.functional.pad(rows, (0, kernel_config.parts * kernel_config.units - rows.shape[1]))
    return (
        padded.view(rows.shape[0], kernel_config.parts, kernel_config.units)
        .transpose(0, 1)
        .reshape(kernel_config.parts, -1)
    )


@dataclass(frozen=True)
class Operands:
    """A stack's numbers as the kernels read them, on the device."""

    words: Tensor
    scales: Tensor
    params: Tensor
    compensation: Tensor
    x_inverse: float
    x_zero_point: int
    h_inverse: float
    y_inverse: float
    y_zero_point: int

    @classmethod
    def of(cls, low: Mapping[str, Any], kernel_config: KernelConfig, device: str) -> Operands:
        """low: what the contract's `lower` gives."""
        words, scales, params = [], [torch.zeros((kernel_config.parts, 0), dtype=torch.int32)], []
        for layer, _, suffix in kernel_config.geometry.suffixes():
            for which, (chunk, chunks) in (
                ("ih", kernel_config.chunks_h if layer else kernel_config.chunks_x),
                ("hh", kernel_config.chunks_h),
            ):
                name = f"weight_{which}{suffix}"
                if kernel_config.group:
                    k = kernel_config.inputs if which == "ih" and layer == 0 else kernel_config.geometry.hidden
                    tiles, scale = _int4_tiles(low, name, k, kernel_config, chunk, chunks)
                    words.append(tiles)
                    scales.append(scale)
                else:
                    words.append(_tiles(low[name].cpu(), kernel_config, chunk, chunks))
            biases = low[f"bias{suffix}"].cpu().float()
            parts = [low[f"weight_{which}{suffix}_multiplier"] for which in ("ih", "hh")]
            parts = [p if isinstance(p, Tensor) else torch.full_like(biases, p) for p in parts] + [biases]
            parts += [low[f"bias_n{suffix}"]] if kernel_config.gates == 3 else []
            params += [_numbers(part.cpu().float(), kernel_config) for part in parts]
        zeros = torch.zeros(kernel_config.gates * kernel_config.geometry.hidden, dtype=torch.int32)  # int4: in the bias
        sums = zeros if kernel_config.group else low["weight_ih_l0"].cpu().sum(1, dtype=torch.int32)
        compensation = _numbers(-low["x_zero_point"] * sums, kernel_config)
        held = torch.cat(scales, 1) if kernel_config.group else torch.zeros((1, 1), dtype=torch.int32)
        joined = (torch.cat(words, 1), held, torch.cat(params, 1), compensation)
        return cls(
            *(t.flatten().contiguous().to(device) for t in joined), low["x_inv_scale"], low["x_zero_point"],
            low["h_inv_scale"], low["y_inv_scale"], low["y_zero_point"],
        )  # fmt: skip
