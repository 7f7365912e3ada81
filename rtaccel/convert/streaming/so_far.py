"""The part of a walk that joins what came so far: sums and extremes of all time steps, and how many there were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rtaccel.convert.frontend.nodes import Buffer, OpNode
from rtaccel.convert.streaming.past import Past
from rtaccel.core.registry import with_role
from rtaccel.core.traits import Node, Role

EVERY, ONE = (0, 1), (0, 0)
"""Places over the elements of a value: each in turn, and the first for all."""


class SoFar(Past):
    """As the protocol `StreamWalk` has it."""

    def inserted(
        self, node: Node, op: str, attrs: dict[str, Any], reads: Sequence[str], made: str, elements: int
    ) -> str:
        if made not in self.buffers:
            self.buffers[made] = Buffer(elements, elements)
            self.op_nodes.append(OpNode(op, self._source(node), node.name, list(reads), [made], attrs=attrs))
        return made

    def running(self, node: Node, kind: str, name: str, elements: int) -> str:
        made = f"{name}:{kind}_so_far"
        if made not in self.buffers:
            self.buffers[made] = Buffer(elements, elements)
            state = self.add_state(f"{made}:joined", elements, 2, "int64")
            attrs = {"kind": kind, "dims": (elements, 1), "places": ((*EVERY, 0), (*EVERY, 0)), "last": 0, "stream": 1}
            op = with_role(Role.RUNNING).name
            self.op_nodes.append(OpNode(op, self._source(node), node.name, [name, state], [made, state], attrs=attrs))
        return made

    def steps_so_far(self, node: Node, shift: int) -> str:
        return self.running(node, "sum", self._ones(node) if shift <= 0 else self.begun(node, shift), 1)

    def _ones(self, node: Node) -> str:
        """A value that is 1 in each step."""
        if (made := "one") not in self.buffers:
            self.buffers[made] = Buffer(1, 1)
            first = self.exported.inputs[0]
            every = ((1,), EVERY, EVERY)
            self._copy(node, [first], made, (every, every), {"c0": torch.ones(1)})
        return made

    def filled_until(self, node: Node, name: str, count: int, shift: int, fill: float) -> str:
        if shift <= 0:
            return name
        made = f"{name}:filled{fill}until{shift}"
        if made not in self.buffers:
            self.buffers[made] = Buffer(count, count)
            self.op_nodes.append(self._masked(node, name, made, count, shift, fill))
        return made

    def newest_rows(self, node: Node, name: str, count: int, rows: int, shift: int, fill: float) -> str:
        found = self.recent(node, name, count, rows * count)
        if rows + shift <= 1:
            return found
        at = self.begun(node, rows - 1 + shift)
        attrs = {"program": (f"where x1 x0 {fill}",), "dims": (rows, count), "places": ((0, count, 1), (0, 1, 0))}
        made = f"{found}:filled{fill}after{shift}"
        return self.inserted(node, with_role(Role.FORMULA).name, attrs, [found, at], made, rows * count)
