"""Dead positions: rows of a value that nothing reads are not computed.

A causal network whose head reads only the newest time step needs, layer by layer, only the time steps that its dilated taps
reach: a third of the work for a TCN of four levels. Needs go backwards from the outputs, then values shrink. What an operator
needs, and how it shrinks, its `rows_needed` says (rtaccel.core.row_traits).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rtaccel.convert.frontend.nodes import Buffer, OpNode, gather_node
from rtaccel.core.row_traits import RowsNeeded
from rtaccel.core.traits import Node, Role

MIN_SHARE_OF_WHOLE = 0.75
"""From this share of its rows on an image is computed whole: kernels for whole images are faster than those for chosen positions.

So is a copy, which may be no more than a view of what a caller gives. A run of rows, as of a signal, is no image.
"""


def eliminate_dead_rows(op_nodes: list[OpNode], buffers: dict[str, Buffer], kept: set[str]) -> list[OpNode]:
    """The same nodes on values without rows that nobody reads. buffers is changed accordingly."""
    needs: dict[str, set[int]] = {}
    whole = set(kept)
    for op_node in reversed(op_nodes):
        _ask(op_node, buffers, needs, whole)
    rows = {
        name: sorted(need)
        for name, need in ((name, need or {0}) for name, need in needs.items())  # one stays where only padding is read
        if name not in whole and len(need) < buffers[name].steps and any(name in d.writes for d in op_nodes)
    }
    return _Shrink(buffers, rows, kept).run(op_nodes)


def _trait(op_node: OpNode) -> RowsNeeded | None:
    """How a node needs and loses rows; None for one that reads and gives all of them."""
    found = None if op_node.is_fallback else op_node.operator.rows_needed
    return found if found is not None and (found.beside or len(op_node.writes) == 1) else None


def _ask(op_node: OpNode, buffers: dict[str, Buffer], needs: dict[str, set[int]], whole: set[str]) -> None:
    """Adds what the node must read for what is asked of it."""
    trait = _trait(op_node)
    if trait is None:
        whole.update(op_node.reads)
        whole.update(op_node.writes)
        return
    whole.update(op_node.writes[1:])
    out = op_node.writes[0]
    asked = needs.get(out, set())
    many = len(asked) >= MIN_SHARE_OF_WHOLE * buffers[out].steps
    if asked and many and (op_node.operator.role is Role.COPY or max(asked) - min(asked) >= len(asked)):
        whole.add(out)
    wanted = set(range(buffers[out].steps)) if out in whole else needs.get(out, set())
    for index, name in enumerate(op_node.reads):
        found = trait.needed(op_node, index, buffers[name].steps, wanted)
        if found is None:
            whole.add(name)
        else:
            needs.setdefault(name, set()).update(found)


class _Shrink:
    """An rtaccel.core.row_traits.Narrowing. One use."""

    def __init__(self, buffers: dict[str, Buffer], rows: dict[str, list[int]], outputs: set[str]) -> None:
        self._buffers, self._rows, self._outputs = buffers, rows, outputs
        self._kept: list[OpNode] = []
        self._renamed: dict[str, str] = {}
        self._gathered: dict[tuple[str, tuple[int, ...]], str] = {}
        self._node: OpNode | None = None

    def run(self, op_nodes: Sequence[OpNode]) -> list[OpNode]:
        for op_node in op_nodes:
            trait, self._node = _trait(op_node), op_node
            hands_on = trait is not None and trait.narrow(op_node, self)
            source, out = (op_node.reads[0], op_node.writes[0]) if hands_on else ("", "")
            if hands_on and source in self._rows and out not in self._outputs:
                self._renamed[out] = self._renamed.get(source, source)
                continue
            op_node.reads = [self._renamed.get(name, name) for name in op_node.reads]
            self._kept.append(op_node)
        for name, own in self._rows.items():
            self._buffers[name] = replace(self._buffers[name], elements=self._buffers[name].width * len(own))
        return self._kept

    def rows_of(self, name: str) -> list[int]:
        return self._rows.get(name) or list(range(self._buffers[name].steps))

    def is_narrowed(self, name: str) -> bool:
        return name in self._rows

    def width(self, name: str) -> int:
        return self._buffers[name].width

    def keep_all(self, name: str) -> None:
        self._rows.pop(name, None)

    def fitted(self, node: Node, name: str, rows: list[int]) -> str:
        if self.rows_of(name) == rows:
            return name
        key = (name, tuple(rows))
        if key not in self._gathered:
            assert self._node is not None
            self._gathered[key] = copy = f"{name.split(':')[0]}:rows{len(self._gathered)}"
            buffer = self._buffers[name]
            self._buffers[copy] = Buffer(buffer.width * len(rows), buffer.width, buffer.dtype)
            place = {row: i for i, row in enumerate(self.rows_of(name))}
            attrs = {"rows": tuple(place[i] for i in rows)}
            source = self._renamed.get(name, name)
            self._kept.append(gather_node(self._node.node, node.name, source, copy, attrs))
        return self._gathered[key]
