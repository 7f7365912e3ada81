"""How many warps of a kernel are resident on a multiprocessor at once, and what limits them."""

from __future__ import annotations

from dataclasses import dataclass

from rtaccel.cli._inspect.cards import Card

REGISTER_UNIT = 256
"""Registers are given to a warp in this many."""

SCHEDULERS = 4
"""Parts of a multiprocessor, with a quarter of its registers each."""

SHARED_UNIT = 128


@dataclass(frozen=True)
class Occupancy:
    """share: resident warps over the most there can be. limit: what there is too little of."""

    blocks: int
    warps: int
    share: float
    limit: str


def occupancy(card: Card, registers: int, shared_bytes: int, warps_per_block: int) -> Occupancy:
    """registers: of a thread. shared_bytes: of a block, static and dynamic.

    Blocks are the least of: warps a multiprocessor holds, blocks it holds, warps whose registers fit (units of 256 per
    warp, a quarter of the file per scheduler), blocks whose shared memory fits (units of 128 bytes, with what the driver
    takes). The rules are those of the occupancy calculator of the CUDA toolkit.
    """
    per_warp = -(-max(registers, 1) * 32 // REGISTER_UNIT) * REGISTER_UNIT
    fitting = card.registers // SCHEDULERS // per_warp * SCHEDULERS
    shared = -(-(shared_bytes + card.reserved_bytes) // SHARED_UNIT) * SHARED_UNIT
    limits = {
        "warps": card.warps // warps_per_block,
        "blocks": card.blocks,
        "registers": fitting // warps_per_block,
        "shared memory": card.shared_bytes // shared,
    }
    limit = min(limits, key=lambda name: limits[name])
    blocks = limits[limit]
    return Occupancy(blocks, blocks * warps_per_block, blocks * warps_per_block / card.warps, limit)
