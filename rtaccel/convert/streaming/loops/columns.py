"""The body of a loop that Python wrote out: what each of its calls is at each time step.

A column is a call of the body as it stands in the graph once for each time step. Where all that it reads is of its own time step,
a constant, or what another column was some steps before, one body computes it, whatever the formula.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import fx

from rtaccel.convert.streaming.loops.reads import MAX_LAG, Reads, is_filled


class NotALoop(Exception):
    """The nodes are not the same at each time step. Says what is different."""


@dataclass(eq=False)
class Column:
    """nodes: at each time step; None where it is not known: at the last steps, where nothing reads it, and at the first one where
    `first` is in its place. args, kwargs: as of the call, with references in place of nodes.
    first: the node or number at the first step, where that is something else."""

    nodes: list[fx.Node | None]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    first: Any = None

    @property
    def sample(self) -> fx.Node:
        """A node of it that is known, of a step in the middle."""
        return next(n for n in self.nodes[len(self.nodes) // 2 :: -1] if n is not None)


@dataclass(frozen=True)
class Same:
    """The constant itself, or a node that is free of the inputs."""

    value: Any


@dataclass(frozen=True)
class Now:
    """What a column or a read is at this step. read: its node at each step."""

    column: Column | None = None
    read: tuple[fx.Node | None, ...] = ()

    @property
    def sample(self) -> fx.Node:
        return next(n for n in self.read[1:] if n is not None) if self.column is None else self.column.sample


@dataclass(frozen=True)
class Before:
    """What that was `lag` steps before; in the first ones what `inits` are, None where it does not matter."""

    of: Now
    lag: int
    inits: tuple[Any, ...]


Reference: TypeAlias = "Same | Now | Before"


class Columns:
    """Finds the columns that values need. columns: found so far."""

    def __init__(self, reads: Reads, steps: int) -> None:
        self.reads, self.steps = reads, steps
        self.columns: list[Column] = []
        self._of: dict[tuple[fx.Node, int], Column] = {}
        self._failed: dict[tuple[Any, ...], str] = {}
        self._tries, self._most = 0, 200 + 4 * len(reads.graph.nodes) // steps  # a call of a body takes one or two
        families: dict[Any, dict[int, fx.Node]] = {}
        for node, read in reads.of.items():
            families.setdefault(read.family, {}).setdefault(read.at, node)
        self._reads = {
            f: tuple(at.get(t) for t in range(steps)) for f, at in families.items() if len(at) >= steps - MAX_LAG
        }

    def reference(self, entries: Sequence[Any]) -> Reference:
        """What is read at each time step, None where that is not known. Raises NotALoop."""
        known = [e for e in entries if e is not None]
        if all(not isinstance(e, fx.Node) or self.reads.free[e] for e in known):
            if not all(is_one(known[0], e) for e in known):
                raise NotALoop("weights or numbers that differ from step to step")
            return Same(known[0])
        if len(known) > 1 and all(e is known[0] for e in known):
            raise NotALoop(f"{known[0].name} in every step, which is of one step, or of all")
        found = self._known(entries)
        if found is not None:
            return found
        begins = next(t for t, e in enumerate(entries) if e is not None)
        lag = next(t for t, e in enumerate(entries) if isinstance(e, fx.Node) and not self.reads.free[e])
        if lag == 0:
            if self._known([*entries[1:], None]) and self._is_of_first_step(entries[0]):
                return self._before(entries, 1, 0)  # a state that begins with the first row
            return self._computed(entries)
        ways: list[Callable[[], Reference]] = [lambda: self._before(entries, lag, begins)]
        if begins == 0 and all(
            _same_call(known[0], e) for e in known
        ):  # what is computed of a state is part of the step
            ways.insert(0, lambda: self._computed(entries, peels=False))
        for way in ways:
            kept = len(self.columns)
            try:
                return way()
            except NotALoop:
                self._forget(kept)
        return self._computed(entries)

    def _known(self, entries: Sequence[Any]) -> Now | None:
        return self._read(entries) or self._found(entries) if any(e is not None for e in entries) else None

    def _read(self, entries: Sequence[Any]) -> Now | None:
        """A read of the same time step."""
        at = next(t for t, e in enumerate(entries) if e is not None)
        own = self.reads.of.get(entries[at])
        steps = None if own is None else self._reads.get(own.family)
        if own is None or steps is None:
            return None
        for t, entry in enumerate(entries):
            read = self.reads.of.get(entry) if isinstance(entry, fx.Node) else None
            if entry is not None and (read is None or read.family != own.family or read.at != t):
                return None
        return Now(read=steps)

    def _before(self, entries: Sequence[Any], lag: int, begins: int) -> Before:
        """lag: entries in front of the first one that a step computes. begins: those of them that do not matter."""
        if lag > MAX_LAG:
            raise NotALoop(f"what was {lag} steps before")
        found = self.reference([*entries[lag:], *[None] * lag])
        if not isinstance(found, Now):
            raise NotALoop("what is no value of the step before")
        shape = found.sample.meta["val"].shape
        for init in entries[begins:lag]:
            if not _fits(init, shape):
                raise NotALoop(f"a state of {list(shape)} that begins with another shape")
        return Before(found, lag, tuple(entries[:lag]))

    def _found(self, entries: Sequence[Any]) -> Now | None:
        """A column that is known already; it learns what it did not know."""
        at = next((t for t, e in enumerate(entries) if t and e is not None), 0)
        column = self._of.get((entries[at], at)) if isinstance(entries[at], fx.Node) else None
        if column is None or any(e is not None and n not in (None, e) for e, n in zip(entries[1:], column.nodes[1:])):
            return None
        head, own = entries[0], column.nodes[0] if column.nodes[0] is not None else column.first
        if head is not None and own is not head:
            if own is not None or not self._may_begin(column, head):
                return None
            column.first = head
        for t, entry in enumerate(entries):
            if t and entry is not None and column.nodes[t] is None:
                column.nodes[t] = entry
                self._of[entry, t] = column
        return Now(column)

    def _computed(self, entries: Sequence[Any], peels: bool = True) -> Now:
        """A call of the same step. peels: whether the first step may compute something else."""
        key = (*entries, peels)
        if key not in self._failed:
            self._tries += 1
            try:
                return self._tried(entries, peels)
            except NotALoop as error:
                self._failed[key] = str(error)
        raise NotALoop(self._failed[key])

    def _tried(self, entries: Sequence[Any], peels: bool) -> Now:
        head, *others = entries
        rest = [e for e in others if e is not None]
        if len(rest) < 2 or any(not isinstance(n, fx.Node) or n.op != "call_function" for n in rest):
            raise NotALoop("values that no step computes")
        if self._tries > self._most:
            raise NotALoop("a loop that is too long to follow")
        odd = next((n for n in rest if not _same_call(rest[0], n)), None)
        if odd is not None:
            raise NotALoop(_difference(odd, rest[0], "one step where another one has"))
        if head is None or _same_call(rest[0], head):
            kept = len(self.columns)
            try:
                return self._filled(Column(list(entries)))
            except NotALoop:
                self._forget(kept)
                if head is None or not peels or not self._may_begin(Column([None, *others]), head):
                    raise
        column = Column([None, *others], first=head)
        if not peels or not self._may_begin(column, head):
            raise NotALoop(_difference(head, rest[0], "the first step where others have"))
        return self._filled(column)

    def _filled(self, column: Column) -> Now:
        self.columns.append(column)
        for t, node in enumerate(column.nodes):
            if node is not None:
                self._of.setdefault((node, t), column)
        sample = column.sample
        column.args = tuple(self._argument(column, partial(_positional, i)) for i in range(len(sample.args)))
        column.kwargs = {k: self._argument(column, partial(_named, k)) for k in sample.kwargs}
        return Now(column)

    def _argument(self, column: Column, get: Callable[[fx.Node], Any]) -> Any:
        parts = [None if n is None else get(n) for n in column.nodes]
        first = next((p for p in parts if p is not None), None)
        if isinstance(first, (list, tuple)):
            return tuple(self._argument(column, partial(_item, get, i)) for i in range(len(first)))
        return Same(None) if first is None else self.reference(parts)

    def _may_begin(self, column: Column, head: Any) -> bool:
        """Whether a column may have another value at the first step: one of the first time step and of constants."""
        value = column.sample.meta.get("val")
        if not isinstance(value, torch.Tensor) or not _fits(head, value.shape):
            return False
        return self._is_of_first_step(head)

    def _is_of_first_step(self, head: Any) -> bool:
        """Whether a value is computed of the first time step and of constants."""
        found, stack = set[fx.Node](), [head] if isinstance(head, fx.Node) else []
        while stack:
            own = stack.pop()
            if own in found or self.reads.free[own]:
                continue
            found.add(own)
            read = self.reads.of.get(own)
            if read is None and (own.op != "call_function" or is_filled(own)):
                return False
            if read is None:
                stack += own.all_input_nodes
            elif read.at or read.family not in self._reads:
                return False
        return True

    def _forget(self, kept: int) -> None:
        gone = set(self.columns[kept:])
        del self.columns[kept:]
        self._of = {at: column for at, column in self._of.items() if column not in gone}


def _positional(index: int, node: fx.Node) -> Any:
    return node.args[index]


def _named(key: str, node: fx.Node) -> Any:
    return node.kwargs[key]


def _item(get: Callable[[fx.Node], Any], index: int, node: fx.Node) -> Any:
    return get(node)[index]


def _same_call(a: Any, b: Any) -> bool:
    """Whether two nodes are the same call, of the same shapes, but for the nodes that they read."""
    if not (isinstance(a, fx.Node) and isinstance(b, fx.Node)) or a.op != "call_function" or a.target is not b.target:
        return False
    if len(a.args) != len(b.args) or a.kwargs.keys() != b.kwargs.keys() or _form(a) != _form(b):
        return False
    return all(_same_form(x, y) for x, y in zip((*a.args, *a.kwargs.values()), (*b.args, *b.kwargs.values())))


def _form(node: fx.Node) -> Any:
    made = node.meta.get("val")
    parts = made if isinstance(made, (list, tuple)) else (made,)
    return [(tuple(p.shape), p.dtype) if isinstance(p, torch.Tensor) else None for p in parts]


def _same_form(a: Any, b: Any) -> bool:
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_same_form(x, y) for x, y in zip(a, b))
    if isinstance(a, fx.Node) or isinstance(b, fx.Node):
        numbers = (int, float, fx.Node)
        return isinstance(a, numbers) and isinstance(b, numbers)
    return type(a) is type(b) and a == b


def is_one(a: Any, b: Any) -> bool:
    """Whether two constants are the same: the same node, or the same call of the same ones."""
    if a is b:
        return True
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(is_one(x, y) for x, y in zip(a, b))
    if not isinstance(a, fx.Node) or not isinstance(b, fx.Node):
        return type(a) is type(b) and a == b
    if not _same_call(a, b):
        return False
    if is_filled(a):
        return all(is_one(x, y) for x, y in zip(a.args, b.args) if not isinstance(x, fx.Node))
    return all(is_one(x, y) for x, y in zip((*a.args, *a.kwargs.values()), (*b.args, *b.kwargs.values())))


def _fits(init: Any, shape: Sequence[int]) -> bool:
    """Whether a first value broadcasts to the shape of later ones."""
    if not isinstance(init, fx.Node):
        return isinstance(init, (int, float))
    value = init.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.dim() > len(shape):
        return False
    return all(g in (1, s) for g, s in zip(reversed(value.shape), reversed(shape)))


def _difference(one: Any, other: fx.Node, where: str) -> str:
    if isinstance(one, fx.Node) and one.target is other.target:
        return f"{_words(other)}, whose numbers or shapes differ from step to step"
    return f"{_words(one)} in {where} {_words(other)}"


def _words(node: Any) -> str:
    return str(node.target).removeprefix("aten.") if isinstance(node, fx.Node) else repr(node)
