"""How an MLP is cut among programs that hold its weights together, and what they exchange."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rtaccel.kernels._gpu.triton_spec import power_of_two
from rtaccel.kernels.mlp.triton.config import KernelConfig, unsupported
from rtaccel.kernels.recurrent.triton.config import NUM_WARPS, WHOLE_WORDS, multiprocessors

THREADS = 32 * NUM_WARPS
MAX_PROGRAMS = 16
MAX_WIDTH = 4 * THREADS
"""A thread for every word that is exchanged."""


@dataclass(frozen=True)
class Partition(KernelConfig):
    """A network of these widths whose layers are each cut among so many programs."""

    @property
    def slot(self) -> int:
        """int64 words of a slot of the exchange: what all programs publish of the widest layer."""
        return max(self.programs * sum(rows) // 4 for rows in self.rows)

    @property
    def x_words(self) -> int:
        return sum(self.columns[0]) // 4

    @property
    def passed(self) -> int:
        """Words that are polled of what the first program passes on: those of x and a header."""
        return max(power_of_two(self.x_words + 1, 16, 1 << 20), THREADS)

    @property
    def exchange_words(self) -> int:
        return 2 * (len(self.rows) * self.slot + self.passed)

    def constants(self, activations: Sequence[str]) -> dict[str, Any]:
        return {
            **super().constants(activations), "SLOT": self.slot, "PROGRAMS": self.programs, "MESSAGE": max(self.message, THREADS),
            "THREADS": THREADS,
        }  # fmt: skip


def partition_of(attrs: Mapping[str, Any], most: int | None = None) -> Partition | str:
    """The fewest programs, at least two, that hold the network of an `mlp` stage in registers, or why there are none."""
    widths, group = tuple(attrs["widths"]), int(attrs.get("group_size", 0))
    if max(widths) > MAX_WIDTH:
        return f"exchanges a word for each of {THREADS} threads, widths up to {MAX_WIDTH}, not {max(widths)}"
    reason = unsupported(Partition(widths, group, 2))
    if reason is not None:
        return reason
    limit = min(MAX_PROGRAMS, multiprocessors() if most is None else most)
    for programs in range(2, limit + 1):
        partition = Partition(widths, group, programs)
        if sum(partition.held_words(THREADS)) <= WHOLE_WORDS:
            return partition
    return f"keeps {4 * WHOLE_WORDS >> 10} KiB of weights in each of at most {limit} programs, which do not hold it"
