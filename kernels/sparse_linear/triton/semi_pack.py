"""How 2:4 weights lie in memory for the Triton kernels: pairs of values, and their places."""

from __future__ import annotations

import torch
from torch import Tensor

from rtaccel.formats import semi

GROUPS = 8
"""Of the shortest line: 32 inputs."""

PADDED = 1.05
"""Weights with their padding, of those that are there, up to which a line is as long as it may be."""


def grouped(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Values [N, groups, 2] and places uint8 [N, groups], two bits each; the groups padded to whole lines."""
    values, positions = semi.pack(weight, "sparse_linear")
    n, groups = weight.shape[0], semi.groups_of(weight.shape[1])
    more = -groups % GROUPS
    metadata = torch.stack((positions & 15, positions >> 4), 2).flatten(1)[:, :groups]
    return (
        torch.nn.functional.pad(values.view(n, groups, 2), (0, 0, 0, more)),
        torch.nn.functional.pad(metadata, (0, more)),
    )


def share_of(k: int) -> int:
    """Words of half a line of K numbers: as many as eight lanes read at once, where that pads weights by a twentieth at most."""
    return next((s for s in (32, 16, 8) if -(-k // (8 * s)) * 8 * s <= PADDED * k), 4)


def pack_lines(weight: Tensor) -> dict[str, Tensor]:
    """As the int8 kernel reads them."""
    values, metadata = grouped(weight)
    n, share = weight.shape[0], share_of(weight.shape[1])
    more = -metadata.shape[1] % (2 * share)
    values = torch.nn.functional.pad(values, (0, 0, 0, more))
    words = values.view(n, -1, 2, share, 2).transpose(2, 3).flatten(1).contiguous().view(torch.int32)
    low, high = torch.nn.functional.pad(metadata, (0, more)).view(n, -1, 2, share).unbind(2)
    return {"weight_ptr": words, "metadata_ptr": (low | (high << 4)).reshape(n, -1)}


def pack_pairs(weight: Tensor) -> dict[str, Tensor]:
    """A word or half a word a group, and places two in a byte."""
    values, metadata = grouped(weight)
    pairs = values.contiguous().view(torch.int32 if weight.dtype == torch.bfloat16 else torch.int16).squeeze(2)
    return {"weight_ptr": pairs, "metadata_ptr": metadata[:, 0::2] | (metadata[:, 1::2] << 4)}
