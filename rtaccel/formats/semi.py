"""2:4 sparse weights: at most two of every four neighboring k of a row have a number.

A state dict stores `weight` [N, 2 * groups], groups = ceil(K / 4), the two values of each group in the order of k (zeros
where there are fewer), and `positions` uint8 [N, (groups + 1) // 2]: four bits a group, two for each of its values, the
even group in the low four bits. int4 values are stored two a byte, a group a byte, as in rtaccel.formats.int4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError

STEP = "Prune the weight to 2:4 first (rt.sparsify_), or pack it with rtaccel.formats.semi."


def groups_of(k: int) -> int:
    return -(-k // 4)


def _fours(weight: Tensor) -> Tensor:
    """[N, groups, 4], zeros beyond K."""
    n, k = weight.shape
    return torch.nn.functional.pad(weight, (0, groups_of(k) * 4 - k)).view(n, groups_of(k), 4)


def fits(weight: Tensor) -> bool:
    """Whether a dense weight [N, K] has at most two numbers in every four."""
    return bool(((_fours(weight) != 0).sum(2) <= 2).all())


def pack(weight: Tensor, op: str = "semi") -> tuple[Tensor, Tensor]:
    """Values [N, 2 * groups] and positions of a dense weight [N, K]. Raises FormatError where it is not 2:4."""
    fours = _fours(weight)
    kept = fours != 0
    if (kept.sum(2) > 2).any():
        row, group = ((kept.sum(2) > 2).nonzero()[0]).tolist()
        got = f"more than two numbers in weight[{row}, {4 * group}:{4 * group + 4}]"
        raise FormatError(op, got, "at most two of every four", STEP)
    # The columns that are kept come first, each part in order; then the two that are stored are put in order of k.
    order = torch.sort(kept.to(torch.uint8), dim=2, descending=True, stable=True).indices[:, :, :2]
    order = order.sort(2).values
    values = fours.gather(2, order)
    nibble = (order[:, :, 0] | order[:, :, 1] << 2).to(torch.uint8)
    if nibble.shape[1] % 2:
        nibble = torch.nn.functional.pad(nibble, (0, 1))
    return values.flatten(1).contiguous(), (nibble[:, 0::2] | (nibble[:, 1::2] << 4)).contiguous()


def _order(positions: Tensor, groups: int) -> Tensor:
    """int64 [N, groups, 2]: the place in its four of each value."""
    nibble = torch.stack((positions & 15, positions >> 4), dim=2).flatten(1)[:, :groups].long()
    return torch.stack((nibble & 3, nibble >> 2), dim=2)


def unpack(values: Tensor, positions: Tensor, k: int) -> Tensor:
    """The dense weight [N, k]. The tensors must have passed `check`."""
    n, groups = values.shape[0], groups_of(k)
    dense = values.new_zeros(n, groups, 4)
    dense.scatter_(2, _order(positions, groups), values.view(n, groups, 2))
    return dense.flatten(1)[:, :k].contiguous()


def check(op: str, values: Tensor, positions: Tensor, n: int, k: int) -> None:
    """Raises FormatError where these are no 2:4 weight [n, k]."""
    groups = groups_of(k)
    if values.shape != (n, 2 * groups):
        raise FormatError(op, f"weight {list(values.shape)}", f"[{n}, {2 * groups}]: two for every four of {k}", STEP)
    if positions.dtype != torch.uint8 or positions.shape != (n, (groups + 1) // 2):
        got = f"positions: {positions.dtype} {list(positions.shape)}"
        raise FormatError(op, got, f"torch.uint8 [{n}, {(groups + 1) // 2}]", STEP)
    order = _order(positions, groups)
    if (order[:, :, 0] >= order[:, :, 1]).any():
        raise FormatError(op, "positions of a group that do not ascend", "two places of every four, in order", STEP)
    beyond = torch.arange(groups, device=order.device)[None, :, None] * 4 + order >= k
    if ((values.view(n, groups, 2) != 0) & beyond).any():
        raise FormatError(op, f"a number beyond K = {k}", "zeros there", STEP)
