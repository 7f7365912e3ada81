"""How an MLP is cut among programs, and its weights in the order in which they read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rtaccel.core import settings
from rtaccel.core.stage import Stage
from rtaccel.kernels._shared.triton_recurrent_form import CHUNK, NUM_WARPS, WHOLE_WORDS, multiprocessors
from rtaccel.kernels._shared.triton_spec import power_of_two
from rtaccel.kernels.mlp import contract

THREADS = 32 * NUM_WARPS
MOST_PARTS = 16
MAX_WIDTH = 4 * THREADS
"""A thread for every word that is exchanged."""


@dataclass(frozen=True)
class Cut:
    """A network of these widths cut into so many programs."""

    widths: tuple[int, ...]
    parts: int

    @property
    def rows(self) -> tuple[int, ...]:
        """Outputs of each layer in one program, padded."""
        return tuple(power_of_two(-(-n // self.parts), 4, 1 << 20) for n in self.widths[1:])

    @property
    def chunks(self) -> tuple[tuple[int, int], ...]:
        """(words of a chunk, chunks) of each layer's input."""
        words = [power_of_two(k, 16, 1 << 20) // 4 for k in self.widths[:-1]]
        return tuple((min(w, CHUNK), max(w // CHUNK, 1)) for w in words)

    @property
    def words(self) -> int:
        """int32 words of weights in one program."""
        return sum(r * c * n for r, (c, n) in zip(self.rows, self.chunks))

    @property
    def slot(self) -> int:
        """int64 words of a slot of the exchange."""
        return max(
            max(self.parts * r // 4, power_of_two(w, 16, 1 << 20) // 4) for r, w in zip(self.rows, self.widths[1:])
        )

    @property
    def passed(self) -> int:
        chunk, chunks = self.chunks[0]
        return max(power_of_two(chunk * chunks + 1, 16, 1 << 20), THREADS)

    @property
    def exchange_words(self) -> int:
        return 2 * (len(self.rows) * self.slot + self.passed)

    def constants(self, activations: Sequence[str]) -> dict[str, Any]:
        first = [0]
        for _, count in self.chunks:
            first.append(first[-1] + count)
        return {
            "K": self.widths[0], "N": self.widths[-1], "WIDTHS": self.widths, "ROWS": self.rows,
            "CHUNK_OF": tuple(c for c, _ in self.chunks), "CHUNKS_OF": tuple(n for _, n in self.chunks),
            "FIRST_OF": tuple(first[:-1]), "ACTIVATIONS": tuple(activations), "SLOT": self.slot, "WORDS": self.words,
            "NUMBERS": sum(2 * r + 4 for r in self.rows), "PARTS": self.parts,
            "MESSAGE": max(power_of_two(self.widths[0], 16, 1 << 20), THREADS), "THREADS": THREADS,
            "ASM": not settings.triton_interpret(),
        }  # fmt: skip


def cut_of(widths: Sequence[int], most: int | None = None) -> Cut | str:
    """The fewest programs, at least two, that hold a network in registers, or why there are none."""
    if max(widths) > MAX_WIDTH:
        return f"exchanges a word for each of {THREADS} threads, widths up to {MAX_WIDTH}, not {max(widths)}"
    limit = min(MOST_PARTS, multiprocessors() if most is None else most)
    for parts in range(2, limit + 1):
        cut = Cut(tuple(widths), parts)
        if cut.words <= WHOLE_WORDS:
            return cut
    return f"keeps {4 * WHOLE_WORDS >> 10} KiB of weights in each of at most {limit} programs, which do not hold it"


@dataclass(frozen=True)
class Operands:
    """A network's numbers as the programs read them, on the device."""

    words: Tensor
    numbers: Tensor
    compensation: Tensor
    inverse: float
    zero_point: int

    @classmethod
    def of(cls, stage: Stage, cut: Cut, device: str) -> Operands:
        low, parts = contract.lower(stage), cut.parts
        words, numbers, compensation = [], [], []
        for layer, rows, (chunk, chunks) in zip(low["layers"], cut.rows, cut.chunks):
            given = layer["weight"].cpu()
            weight = torch.zeros((parts * rows, 4 * chunk * chunks), dtype=torch.int8)
            weight[: given.shape[0], : given.shape[1]] = given
            tiles = weight.view(torch.int32).view(parts, rows, chunks, chunk).transpose(1, 2)
            words.append(tiles.reshape(parts, -1))
            sums = -layer["x_zero_point"] * weight.sum(1, dtype=torch.int32)
            compensation.append(sums.view(parts, rows))
            for name in ("multiplier", "offset"):
                values = layer[name].cpu().float()
                padded = torch.nn.functional.pad(values, (0, parts * rows - values.shape[0]))
                numbers.append(padded.view(parts, rows))
            ends = torch.tensor([layer["activation_parameter"], layer["y_zero_point"], 0.0, 0.0])
            numbers.append(ends.expand(parts, 4))
        joined = (torch.cat(t, 1).flatten().to(device) for t in (words, numbers, compensation))
        return cls(*joined, low["inv_scale"], low["zero_point"])
