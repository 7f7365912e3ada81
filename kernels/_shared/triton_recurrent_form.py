"""How a recurrent stack is cut for the kernels of triton_recurrent.py, and its weights in the order in which they read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rtaccel.core import settings
from rtaccel.core.stage import Problem
from rtaccel.kernels._shared.recurrent import MAX_K, Geometry
from rtaccel.kernels._shared.triton_spec import power_of_two

NUM_WARPS = 8
THREADS = 32 * NUM_WARPS
MAX_WORDS = 128 * THREADS
"""int32 words of weights that a program holds at a time, 128 a thread: with them and the rest a thread stays within the 255
registers that 8 warps may have."""

WHOLE_WORDS = 112 * THREADS
"""Words of a stack above which it is cut into more programs rather than held by these. Not measured on a card."""

CHUNK = 128
"""Words of a tile that one warp reads at once: a longer row would be spread over warps, and every sum cross them."""

FEWEST_UNITS = 8
MULTIPROCESSORS = 132
"""What is assumed where no card is seen: those of an H100."""


@dataclass(frozen=True)
class Form:
    """One cut of a stack. inputs: K. units: of each layer in a program (BU). parts: programs of a stream. resident: layers whose
    weights stay in registers."""

    geometry: Geometry
    inputs: int
    gates: int
    units: int
    parts: int
    resident: int

    @property
    def chunks_x(self) -> tuple[int, int]:
        """(words of a chunk, chunks) of x."""
        words = power_of_two(self.inputs, 16, 1 << 20) // 4
        return min(words, CHUNK), max(words // CHUNK, 1)

    @property
    def chunks_h(self) -> tuple[int, int]:
        words = self.units * power_of_two(self.parts, 1, 1 << 20) // 4
        if self.parts == 1:
            return words, 1
        return min(words, CHUNK), max(words // CHUNK, 1)

    @property
    def half_words(self) -> tuple[int, ...]:
        """Of each layer in one program, padded: its weights for x, and those for h."""
        (cx, nx), (ch, nh) = self.chunks_x, self.chunks_h
        tile = self.gates * self.units
        return (tile * cx * nx, tile * ch * nh, *[tile * ch * nh] * (2 * (self.geometry.layers - 1)))

    @property
    def layer_words(self) -> tuple[int, ...]:
        halves = self.half_words
        return tuple(x + h for x, h in zip(halves[::2], halves[1::2]))

    @property
    def num_warps(self) -> int:
        """As few as hold the weights with 64 words a thread, at least four, and a thread for every word that is exchanged."""
        held = sum(self.layer_words[: self.resident]) + max(self.half_words[2 * self.resident :], default=0)
        return power_of_two(max(held // (64 * 32), -(-self.geometry.hidden // 128)), 4, NUM_WARPS)

    def constants(self) -> dict[str, Any]:
        """Those that all recurrent kernels have."""
        (cx, nx), (ch, nh) = self.chunks_x, self.chunks_h
        return {
            "GATES": self.gates, "LAYERS": self.geometry.layers, "RESIDENT": self.resident, "K": self.inputs,
            "H": self.geometry.hidden, "BU": self.units, "CX": cx, "NX": nx, "CH": ch, "NH": nh, "PARTS": self.parts,
            "THREADS": 32 * self.num_warps, "ASM": not settings.triton_interpret(),
        }  # fmt: skip


def multiprocessors() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count)
    return MULTIPROCESSORS


def _resident(form: Form) -> int | None:
    """How many first layers stay, with room for the largest half of the others; None where not even that fits."""
    words = form.layer_words
    for count in range(len(words), -1, -1):
        if sum(words[:count]) + max(form.half_words[2 * count :], default=0) <= MAX_WORDS:
            return count
    return None


def forms(problem: Problem, gates: int) -> list[Form]:
    """Every cut that fits a program, those with the fewest programs first."""
    geometry, inputs = Geometry.of(problem.attrs), problem.in_widths[0]
    found = []
    units = power_of_two(geometry.hidden, FEWEST_UNITS, 1 << 20)
    while units >= FEWEST_UNITS:
        form = Form(geometry, inputs, gates, units, -(-geometry.hidden // units), 0)
        resident = _resident(form)
        if resident is not None:
            found.append(Form(geometry, inputs, gates, units, form.parts, resident))
        units //= 2
    return found


def form_of(problem: Problem, gates: int, most: int | None = None) -> Form | str:
    """The cut of a stack for `most` programs a stream (those that the device holds at once, shared by its streams), or why
    there is none: the fewest programs that keep all weights in registers, else the most that there are.

    In the interpreter, which runs one program after another, one program has everything.
    """
    geometry, inputs = Geometry.of(problem.attrs), problem.in_widths[0]
    if settings.triton_interpret():
        units = power_of_two(geometry.hidden, FEWEST_UNITS, 1 << 20)
        return Form(geometry, inputs, gates, units, 1, geometry.layers)
    streams = max(problem.rows * geometry.batch, 1)
    limit = max((most or multiprocessors()) // streams, 1)
    found = forms(problem, gates)
    fitting = [form for form in found if form.parts <= limit and form.parts * form.units <= 4 * THREADS]
    if not fitting:
        fewest = min((form.parts for form in found), default=0)
        return (
            f"needs {fewest} programs at once for each of {streams} streams of {geometry.hidden} units, and there are "
            f"{limit}" if fewest else f"holds a layer of a program in registers, not {geometry.hidden} units"
        )  # fmt: skip
    whole = [f for f in fitting if f.resident == geometry.layers and sum(f.layer_words) <= WHOLE_WORDS]
    return whole[0] if whole else fitting[-1]


def unsupported(problem: Problem) -> str | None:
    """None, or why the kernels do not compute a stage at all, however it is cut."""
    geometry = Geometry.of(problem.attrs)
    if problem.weight_dtype != "int8":
        return f"takes int8 weights, not {problem.weight_dtype}"
    if geometry.directions != 1:
        return "runs forwards, not in both directions"
    if max(problem.in_widths[0], geometry.hidden) > MAX_K:
        return f"sums in int32, which holds widths up to {MAX_K}"
    return None


def _tiles(weight: Tensor, form: Form, chunk: int, chunks: int) -> Tensor:
    """int8 [gates * H, K] -> int32 [parts, gates * chunks * units * chunk words]."""
    units = form.parts * form.units
    padded = torch.zeros((form.gates, units, 4 * chunk * chunks), dtype=torch.int8)
    padded[:, : form.geometry.hidden, : weight.shape[1]] = weight.view(form.gates, -1, weight.shape[1])
    words = padded.view(torch.int32).view(form.gates, form.parts, form.units, chunks, chunk)
    return words.permute(1, 0, 3, 2, 4).reshape(form.parts, -1)


def _numbers(values: Tensor, form: Form) -> Tensor:
    """[rows * H] -> [parts, rows * units]."""
    rows = values.view(-1, form.geometry.hidden)
    padded = torch.nn.functional.pad(rows, (0, form.parts * form.units - rows.shape[1]))
    return padded.view(rows.shape[0], form.parts, form.units).transpose(0, 1).reshape(form.parts, -1)


@dataclass(frozen=True)
class Operands:
    """A stack's numbers as the kernels read them, on the device."""

    words: Tensor
    numbers: Tensor
    compensation: Tensor
    x_inverse: float
    x_zero_point: int
    h_inverse: float
    y_inverse: float
    y_zero_point: int

    @classmethod
    def of(cls, low: Mapping[str, Any], form: Form, device: str) -> Operands:
        """low: what the contract's `lower` gives."""
        words, numbers = [], []
        for layer, _, suffix in form.geometry.suffixes():
            x, h = (low[f"weight_{which}{suffix}"].cpu() for which in ("ih", "hh"))
            words += [
                _tiles(x, form, *(form.chunks_x if layer == 0 else form.chunks_h)),
                _tiles(h, form, *form.chunks_h),
            ]
            parts = [low[f"weight_{which}{suffix}_multiplier"] for which in ("ih", "hh")] + [low[f"bias{suffix}"]]
            parts += [low[f"bias_n{suffix}"]] if form.gates == 3 else []
            numbers += [_numbers(part.cpu().float(), form) for part in parts]
        first = low["weight_ih_l0"].cpu()
        compensation = _numbers(-low["x_zero_point"] * first.sum(1, dtype=torch.int32), form)
        joined = (torch.cat(words, 1), torch.cat(numbers, 1), compensation)
        return cls(
            *(t.flatten().contiguous().to(device) for t in joined), low["x_inv_scale"], low["x_zero_point"],
            low["h_inv_scale"], low["y_inv_scale"], low["y_zero_point"],
        )  # fmt: skip
