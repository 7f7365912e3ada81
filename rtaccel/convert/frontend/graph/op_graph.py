"""What a captured graph becomes: nodes over stored values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rtaccel.convert.frontend.layout import View
from rtaccel.convert.frontend.nodes import Buffer, OpNode


@dataclass(frozen=True)
class OpGraph:
    """nodes in order. buffers: the stored values. views: node name -> where its elements lie.
    outputs: names of values or nodes, or numbers and None as they are. trailing: how a value that the model returns is
    shaped. batch: whether dimension 0 of the inputs is samples.
    constants: parameters, buffers and what is computed from them alone."""

    op_nodes: tuple[OpNode, ...]
    buffers: dict[str, Buffer]
    views: dict[str, View]
    outputs: tuple[Any, ...]
    trailing: dict[str, tuple[int, ...]]
    batch: bool
    constants: dict[str, Tensor]

    @property
    def kept(self) -> set[str]:
        """Names of values that something outside the nodes reads."""
        named = {o for o in self.outputs if isinstance(o, str)}
        return named | {self.views[o].base for o in named if o in self.views}

    @property
    def fallback_count(self) -> int:
        return sum(d.is_fallback for d in self.op_nodes)

    @property
    def may_fit_fixed(self) -> bool:
        """Whether a call is left alone for the way its tensors lie: with fixed shapes it might be taken."""
        return any(d.layout for d in self.op_nodes)
