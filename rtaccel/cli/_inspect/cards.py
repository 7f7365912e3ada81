"""What a multiprocessor of each architecture holds, and what one card of it can do at most.

Limits of a multiprocessor: CUDA C++ Programming Guide, technical specifications per compute capability. Speeds: the
vendor's data sheets, dense, without sparsity; bandwidth of the card's own memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from rtaccel.core.errors import FormatError


@dataclass(frozen=True)
class Card:
    """capability: times ten. warps, blocks: most that are resident on a multiprocessor. shared_bytes: of a multiprocessor,
    of which every block takes `reserved_bytes`. gb_s: of memory. int8_tops: 10^12 int8 operations per second."""

    name: str
    capability: int
    multiprocessors: int
    warps: int
    blocks: int
    shared_bytes: int
    gb_s: float
    int8_tops: float
    registers: int = 65536
    reserved_bytes: int = 1024

    @property
    def arch(self) -> str:
        return f"sm_{self.capability}"


CARDS = (
    Card("A100 SXM 80 GB", 80, 108, 64, 32, 164 << 10, 2039, 624),
    Card("RTX 3090", 86, 82, 48, 16, 100 << 10, 936, 284),
    Card("L4", 89, 58, 48, 24, 100 << 10, 300, 242),
    Card("H100 SXM", 90, 132, 64, 32, 228 << 10, 3350, 1979),
    Card("B200", 100, 148, 64, 32, 228 << 10, 8000, 4500),
    Card("RTX 5090", 120, 170, 48, 24, 100 << 10, 1792, 838),
)


def card_of(arch: str) -> Card:
    """By its architecture, `sm_90`. Raises FormatError for one that is not compiled for."""
    found = next((card for card in CARDS if card.arch == arch), None)
    if found is None:
        known = ", ".join(card.arch for card in CARDS)
        raise FormatError("inspect", f"--arch {arch}", known, "Kernels are compiled and checked for these.")
    return found
