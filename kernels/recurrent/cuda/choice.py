"""Which cut of a recurrent stack a card gets: every one that fits is looked at, and the soonest answer is taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

from rtaccel.core import settings
from rtaccel.kernels._persistent.card import Card
from rtaccel.kernels.recurrent.cuda.config import (
    MAX_LOOKED_AT,
    MAX_THREADS,
    POLL_CLOCKS,
    POLLERS,
    Head,
    KernelConfig,
    cuts,
)
from rtaccel.kernels.recurrent.layout import Geometry

_polling: list[int] = []


@contextmanager
def polling(warps: int) -> Iterator[None]:
    """Forms that are chosen inside have so many warps that poll, POLLERS or 0: for measuring one beside the other."""
    _polling.append(warps)
    try:
        yield
    finally:
        _polling.remove(warps)


_clustering: list[bool] = []


@contextmanager
def clustering(may: bool) -> Iterator[None]:
    """Forms that are chosen inside may be clusters, or may not: for measuring one beside the other."""
    _clustering.append(may)
    try:
        yield
    finally:
        _clustering.remove(may)


_mapping: list[bool] = []


@contextmanager
def mapping(mapped: bool) -> Iterator[None]:
    """Forms that are chosen inside find messages in the card's memory, into which the host writes, or in the host's."""
    _mapping.append(mapped)
    try:
        yield
    finally:
        _mapping.remove(mapped)


def kernel_configs(
    geometry: Geometry, inputs: int, gates: int, group: int, head: Head | None, of: Card
) -> Iterator[KernelConfig]:
    """Every cut for a card."""
    cluster = 0 if False in _clustering else of.cluster
    # A look at L2 is short: nothing is gained by having several under way.
    mapped = _mapping[-1] if _mapping else settings.mailbox() == "gdr"
    pollers = [0] if mapped else _polling[-1:] or ([0, POLLERS] if inputs < MAX_LOOKED_AT else [0])
    for units, parts in cuts(geometry.hidden, of.multiprocessors):
        for lanes in (1, 2, 4, 8, 16, 32):
            for warps, clustered in product(pollers, [False, True] if 1 < parts <= cluster else [False]):
                kernel_config = KernelConfig(
                    geometry,
                    inputs,
                    gates,
                    group,
                    head,
                    units,
                    parts,
                    lanes,
                    pollers=warps,
                    cluster=clustered,
                    mapped=mapped,
                )
                if not 32 <= kernel_config.threads <= MAX_THREADS:
                    continue
                kernel_config = kernel_config.placed(of.shared)
                if kernel_config.shared_bytes <= of.shared:
                    yield kernel_config


def select_config(
    geometry: Geometry, inputs: int, gates: int, group: int, head: Head | None, of: Card | None = None
) -> KernelConfig | None:
    """The form for a card that reads least again, and of those the one with the soonest answer; None where none fits at all."""
    of = of or Card()
    found = list(kernel_configs(geometry, inputs, gates, group, head, of))
    return min(found, key=_worth, default=None)


def _worth(kernel_config: KernelConfig) -> tuple[float, ...]:
    timed, after = kernel_config.clocks()
    return (kernel_config.reread_bytes, timed + after / 16 - (POLL_CLOCKS if kernel_config.pollers else 0))
