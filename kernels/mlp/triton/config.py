"""How an MLP is laid out for the kernels of triton/layers.py: parts, tiles and numbers, for one program or for several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rtaccel.core import settings
from rtaccel.core.stage import Stage
from rtaccel.kernels._gpu import triton_int4
from rtaccel.kernels._gpu.triton_spec import power_of_two
from rtaccel.kernels._gpu.triton_tiles import parts_of, tiles_of
from rtaccel.kernels.linear.contract import MAX_K
from rtaccel.kernels.mlp import contract


class Net(NamedTuple):
    """The layers of a network in one program; a constant of the kernels.

    Layer i has the outputs ROWS[ROW_AT[i]:ROW_AT[i + 1]] in parts, HEIGHTS[i] in all, and the inputs COLUMNS[COLUMN_AT[i]:...],
    which begin at STARTS; its tiles are those from TILE_AT[i] on. WIDTHS: of the whole network. LAYER_WORDS, LAYER_SCALES: words
    of its weights and of their scales. GROUP: of int4 weights, 0 for int8 ones.
    """

    GROUP: int
    ROWS: tuple[int, ...]
    ROW_AT: tuple[int, ...]
    HEIGHTS: tuple[int, ...]
    COLUMNS: tuple[int, ...]
    COLUMN_AT: tuple[int, ...]
    STARTS: tuple[int, ...]
    TILE_AT: tuple[int, ...]
    WIDTHS: tuple[int, ...]
    LAYER_WORDS: tuple[int, ...]
    LAYER_SCALES: tuple[int, ...]
    ACTIVATIONS: tuple[str, ...]
    ASM: bool


@dataclass(frozen=True)
class KernelConfig:
    """A network of these widths, each layer's outputs shared by so many programs. group: of int4 weights; 0 for int8 ones."""

    widths: tuple[int, ...]
    group: int = 0
    programs: int = 1

    @classmethod
    def of(cls, attrs: Mapping[str, Any], programs: int = 1) -> KernelConfig:
        return cls(tuple(attrs["widths"]), int(attrs.get("group_size", 0)), programs)

    @property
    def label(self) -> str:
        return "-".join(map(str, self.widths)) + (f"_int4_g{self.group}" if self.group else "")

    @property
    def per_word(self) -> int:
        return 8 if self.group else 4

    @property
    def columns(self) -> tuple[tuple[int, ...], ...]:
        """The parts of each layer's input."""
        return tuple(parts_of(k, max(16, self.group)) for k in self.widths[:-1])

    @property
    def rows(self) -> tuple[tuple[int, ...], ...]:
        """The parts of each layer's outputs in one program. One program hands them to the next layer as they are."""
        if self.programs == 1:
            return (*self.columns[1:], parts_of(self.widths[-1]))
        return tuple(parts_of(-(-n // self.programs), 4) for n in self.widths[1:])

    @property
    def layer_words(self) -> tuple[int, ...]:
        """int32 words of weights of each layer in one program."""
        return tuple(sum(r) * sum(c) // self.per_word for r, c in zip(self.rows, self.columns))

    @property
    def x_registers(self) -> int:
        """Of a thread, for each part of a layer's input: with int4 two words of x for every word of weights."""
        return 8 if self.group else 4

    def held_words(self, threads: int) -> tuple[int, ...]:
        """Words of each layer that the registers of so many threads hold: of a smaller tile every thread has one, or a copy."""
        layers = zip(self.rows, self.columns)
        return tuple(
            sum(max(r * c // self.per_word, threads) for r in rows for c in columns) for rows, columns in layers
        )

    @property
    def scale_words(self) -> tuple[int, ...]:
        """Words of group scales of each layer in one program."""
        pairs = [-(-sum(c) // (2 * self.group)) if self.group else 0 for c in self.columns]
        return tuple(p * sum(r) for p, r in zip(pairs, self.rows))

    def net(self, activations: Sequence[str]) -> Net:
        rows, columns = self.rows, self.columns
        return Net(
            GROUP=self.group, ROWS=_flat(rows), ROW_AT=_starts(rows), HEIGHTS=tuple(map(sum, rows)), COLUMNS=_flat(columns),
            COLUMN_AT=_starts(columns), STARTS=_places(columns),
            TILE_AT=(0, *accumulate(len(r) * len(c) for r, c in zip(rows, columns))), WIDTHS=self.widths,
            LAYER_WORDS=self.layer_words, LAYER_SCALES=self.scale_words, ACTIVATIONS=tuple(activations),
            ASM=not settings.triton_interpret(),
        )  # fmt: skip

    def constants(self, activations: Sequence[str]) -> dict[str, Any]:
        return {"K": self.widths[0], "N": self.widths[-1], "NET": self.net(activations)}

    @property
    def message(self) -> int:
        """Numbers of x, padded to a power of two that holds all its parts."""
        return power_of_two(sum(self.columns[0]), 16, 1 << 20)

    def polled(self, threads: int) -> int:
        """Words of the mailbox that so many threads poll, of x and a command: one at least each, so that no warp has the words
        of another."""
        return max(self.message, power_of_two(self.widths[0] + 1, 16, 1 << 20), threads)


def _flat(parts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(p for one in parts for p in one)


def _starts(parts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return (0, *accumulate(map(len, parts)))


def _places(parts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Where each part begins in its own vector."""
    return tuple(at for one in parts for at in accumulate(one[:-1], initial=0))


def unsupported(config: KernelConfig) -> str | None:
    """None, or why no kernel computes such a network, however it is cut."""
    if max(config.widths) > MAX_K:
        return f"sums in int32, which holds widths up to {MAX_K}, not {max(config.widths)}"
    if config.group and config.group not in triton_int4.GROUP_SIZES:
        return f"takes int4 weights in groups of {', '.join(map(str, triton_int4.GROUP_SIZES))}, not {config.group}"
    return None


@dataclass(frozen=True)
class Operands:
    """A network's numbers as the kernels read them, on the device, those of one program after those of another.

    words: weights, then with int4 ones the group scales. numbers, per layer: multipliers, offsets, the activation's
    parameter, the zero point of the int8 output, and two more, so that the next layer's are aligned. compensation: of int8
    weights, what the zero point of x adds to every sum.
    """

    words: Tensor
    scales: Tensor
    params: Tensor
    compensation: Tensor
    inverse: float
    zero_point: int

    @classmethod
    def of(cls, stage: Stage, config: KernelConfig, device: str) -> Operands:
        low = contract.lower(stage)
        found: list[list[Tensor]] = [[], [], [], []]
        for program in range(config.programs):
            for layer, rows, columns in zip(low["layers"], config.rows, config.columns):
                for parts, part in zip(found, _operands(layer, config, program, rows, columns)):
                    parts.append(part)
        one = torch.zeros(1, dtype=torch.int32)
        joined = (torch.cat([t.flatten() for t in parts]) for parts in found)
        words, scales, params, compensation = (t.to(device) if t.numel() else one.to(device) for t in joined)
        return cls(words, scales, params, compensation, low["inv_scale"], low["zero_point"])

    @property
    def weights(self) -> dict[str, Tensor]:
        """What other weights change, by the names of a kernel's arguments."""
        return {
            "words_ptr": self.words, "scales_ptr": self.scales, "params_ptr": self.params,
            "compensation_ptr": self.compensation,
        }  # fmt: skip

    @property
    def scalars(self) -> dict[str, float | int]:
        """What they do not."""
        return {"inverse": self.inverse, "zero_point": self.zero_point}

    def arguments(self) -> dict[str, Any]:
        return {**self.weights, **self.scalars}


def _operands(
    layer: Mapping[str, Any], config: KernelConfig, program: int, rows: Sequence[int], columns: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    height, width = sum(rows), sum(columns)
    given = layer["weight"].cpu()[program * height : (program + 1) * height]
    if config.group:
        group_scale = layer["group_scale"].cpu()[program * height : (program + 1) * height]
        q, scales = triton_int4.unpacked(given, group_scale, layer["x_width"], config.group, height, width)
        words, compensation = triton_int4.pack_words(q), torch.zeros(0, dtype=torch.int32)
    else:
        q = torch.zeros((height, width), dtype=torch.int8)
        q[: given.shape[0], : given.shape[1]] = given
        words, scales = q.view(torch.int32), torch.zeros(0, dtype=torch.int32)
        compensation = -layer["x_zero_point"] * q.sum(1, dtype=torch.int32)
    params = []
    for name in ("multiplier", "offset"):
        values = layer[name].cpu().float()[program * height : (program + 1) * height]
        params.append(torch.nn.functional.pad(values, (0, height - values.shape[0])))
    params.append(torch.tensor([layer["activation_parameter"], layer["y_zero_point"], 0.0, 0.0]))
    tiles = tiles_of(words, rows, [c // config.per_word for c in columns])
    return tiles, scales, torch.cat(params), compensation
