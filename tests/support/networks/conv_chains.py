"""Chains of convolutions whose values are int8 between the first and the last, and the launches of their graph in static W8A8."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def to_layers() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 9, 8, 4), nn.ReLU(), nn.Conv1d(9, 10, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(60, 7), nn.ReLU(),
        nn.Linear(7, 3),
    )  # fmt: skip


def to_positions() -> nn.Module:
    """A NaN of a position is seen by few results, and is one in all of them."""
    return nn.Sequential(nn.Conv1d(3, 9, 3, padding=1), nn.GELU(), nn.Conv1d(9, 4, 3, padding=1))


def in_groups() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Tanh(),
        nn.MaxPool2d(2),
    )  # fmt: skip


def not_marked() -> nn.Module:
    """Two values are looked at: x, and what is pooled. So a launch looks at both."""
    return nn.Sequential(
        nn.Conv1d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool1d(2), nn.Conv1d(8, 8, 3, padding=1), nn.Flatten(),
        nn.Linear(64, 3),
    )  # fmt: skip


CHAINS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, int]]] = {
    "layers": (to_layers, (3, 4, 57), (5, 0)),
    "positions": (to_positions, (2, 3, 13), (4, 0)),
    "groups": (in_groups, (3, 3, 14, 13), (6, 0)),
    "not marked": (not_marked, (2, 3, 16), (7, 1)),
}
"""The network, the shape of its input, (launches, those that look for a NaN alone)."""
