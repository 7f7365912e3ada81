"""The range of h of recurrent layers in calibration: it is int8 with one static scale, and is no value of the graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten
MARGIN = 1.05
"""Room above the largest |h| seen: h is bounded by 1, and a clamp costs more than a slightly coarser step."""


class HiddenObserver:
    """Sees the calls of one recurrent node. h of every layer is computed once more, layer by layer."""

    def __init__(self, name: str, given: bool) -> None:
        """given: whether the states come with every call, so that one call alone does not show what they grow to."""
        self.name, self._given = name, given
        self.largest, self.trusted = 0.0, not given

    def observe(self, node: fx.Node, args: tuple[Any, ...], result: Any) -> None:
        hx = args[1]
        states = list(hx) if isinstance(hx, (list, tuple)) else [hx]
        seen = [states[0], result[0] if isinstance(result, tuple) else result]
        if node.target in (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input):
            seen.extend(_layers(node, args, states))
        self.largest = max(self.largest, *(float(t.abs().max()) for t in seen if t.numel()))
        self.trusted = self.trusted or bool(states[0].any())

    @property
    def scale(self) -> float | None:
        """For `h_scale` of the stage; None where the calls did not show the range."""
        if not self.trusted or self.largest in (0.0, 1.0):
            return None
        # What the layer computes is below 1; states that are given may be larger, and a clamp would be a wrong answer.
        widened = self.largest * MARGIN
        return (min(1.0, widened) if self.largest < 1 else widened) / 127

    @property
    def note(self) -> str:
        """For the report, where there is no scale."""
        return f"{self.name}: h has the scale of its bound, 1: calibration starts every call from zero states"


def _layers(node: fx.Node, args: tuple[Any, ...], states: list[Tensor]) -> list[Tensor]:
    """The outputs of all layers but the last."""
    x, _, params, biased, layers, _, _, bidirectional, batch_first = args
    directions = 2 if bidirectional else 1
    per = directions * (4 if biased else 2)
    found = []
    for layer in range(layers - 1):
        own = [s[layer * directions : (layer + 1) * directions].contiguous() for s in states]
        x = node.target(  # type: ignore[operator]
            x, own if node.target is aten.lstm.input else own[0], params[layer * per : (layer + 1) * per],
            biased, 1, 0.0, False, bidirectional, batch_first,
        )[0]  # fmt: skip
        found.append(x)
    return found
