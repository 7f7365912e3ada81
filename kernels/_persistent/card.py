"""The card that persistent kernels in CUDA C++ are cut for: the one that is here, an H100 where none is, or what is assumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

SHARED_BYTES: Mapping[int, int] = {80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 110: 227, 120: 99}
"""KiB of shared memory that a block may have, by compute capability times ten."""


def registers_of(threads: int) -> int:
    """That each thread of a block may have, on every card: each of the four schedulers has a quarter of the registers."""
    return min(255, 65536 // (-(-threads // 128) * 128) // 8 * 8)


CLUSTERS: Mapping[int, int] = {90: 16, 100: 16, 110: 8}
"""Blocks of a cluster at most, by compute capability times ten. More than 8 are not promised by the architecture: whether a
device has room for a cluster is asked of its driver when a kernel is loaded."""


@dataclass(frozen=True)
class Card:
    """What a form is made for. Where no card is seen: an H100. shared: bytes that a block may have. cluster: blocks that may
    read and write each other's shared memory, at most; 0 where none may. has_clusters: False for a device that has no room."""

    capability: int = 90
    multiprocessors: int = 132
    has_clusters: bool = True

    @property
    def cluster(self) -> int:
        known = [c for c in CLUSTERS if c <= self.capability]
        return CLUSTERS[max(known)] if known and self.has_clusters else 0

    @property
    def shared(self) -> int:
        known = [c for c in SHARED_BYTES if c <= self.capability]
        return SHARED_BYTES[max(known, default=80)] << 10


_assumed: list[Card] = []


@contextmanager
def assuming(card: Card) -> Iterator[None]:
    """Forms that are chosen inside are for this card, whatever is here: for building ahead."""
    _assumed.append(card)
    try:
        yield
    finally:
        _assumed.remove(card)


def card() -> Card:
    """The one that forms are for: what is assumed, or the current device."""
    import torch

    if _assumed:
        return _assumed[-1]
    if not torch.cuda.is_available():
        return Card()
    about = torch.cuda.get_device_properties(torch.cuda.current_device())
    return Card(10 * about.major + about.minor, about.multi_processor_count)
