"""Sparsity: which weights of a layer are zero, and so are neither stored nor multiplied.

A pattern is a small frozen value, as a scheme is. `sparsity` is the fraction of zeros that pruning is to reach; None means
the zeros that are there, and nothing is pruned.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Union

from rtaccel.core.errors import FormatError
from rtaccel.core.scheme import check_pattern


class Sparsity:
    """Base class. `layout` names the form that a weight is stored in, as the operator `sparse_linear` has it."""

    name: ClassVar[str] = ""
    layout: ClassVar[str] = ""
    sparsity: float | None
    always: bool = False

    def __post_init__(self) -> None:
        check_sparsity(type(self).__name__, self.sparsity)

    def __str__(self) -> str:
        return self.name if self.sparsity is None else f"{self.name} {self.sparsity:.0%}"


@dataclass(frozen=True)
class Unstructured(Sparsity):
    """Any weight may be zero. sparsity: fraction of zeros, in 0..1; None for the zeros that are there.

    always: for `rt.compile`: linear layers are computed sparse, zero by zero, where that is not held to be faster, too.
    """

    name: ClassVar[str] = "unstructured"
    layout: ClassVar[str] = "window"
    sparsity: float | None = None
    always: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.always) is not bool:
            raise FormatError("Unstructured", f"always={self.always!r}", "True or False", "Leave it out.")

    __str__ = Sparsity.__str__


@dataclass(frozen=True)
class BlockSparse(Sparsity):
    """Blocks of `block` (outputs, inputs) weights are zero as a whole. Blocks need not divide the layer."""

    name: ClassVar[str] = "blocks"
    layout: ClassVar[str] = "blocks"
    block: tuple[int, int] = (16, 16)
    sparsity: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_block(type(self).__name__, self.block)

    def __str__(self) -> str:
        return f"{self.block[0]}x{self.block[1]} " + Sparsity.__str__(self)


@dataclass(frozen=True)
class SemiStructured(Sparsity):
    """2:4: at most two of every four neighboring inputs of an output have a weight.

    sparsity: 0.5, or None; pruning reaches 0.5 with either, and takes no weight away where the pattern is kept already.
    """

    name: ClassVar[str] = "2:4"
    layout: ClassVar[str] = "2:4"
    sparsity: float | None = None

    def __post_init__(self) -> None:
        if self.sparsity not in (None, 0.5):
            raise FormatError("SemiStructured", f"sparsity={self.sparsity!r}", "0.5 or None", "2:4 keeps half.")

    def __str__(self) -> str:
        return self.name


SparsityLike = Union[Sparsity, str, Mapping[str, Union[Sparsity, str, None]]]


def check_sparsity(op: str, sparsity: object) -> None:
    """Raises FormatError for what is no fraction of zeros."""
    number = isinstance(sparsity, (int, float)) and not isinstance(sparsity, bool)
    if sparsity is not None and not (number and 0 <= sparsity <= 1):  # type: ignore[operator]
        raise FormatError(op, f"sparsity={sparsity!r}", "a fraction of zeros in 0..1, or None", "0.9 makes 90 % zero.")


def check_block(op: str, block: object) -> tuple[int, int]:
    """Raises FormatError for what is no size of a block."""
    if not isinstance(block, (tuple, list)) or len(block) != 2 or any(type(b) is not int or b < 1 for b in block):
        raise FormatError(op, f"block={block!r}", "(outputs, inputs), both at least 1", "Take (16, 16).")
    return block[0], block[1]


_KNOWN: dict[str, type[Sparsity]] = {cls.name: cls for cls in (Unstructured, BlockSparse, SemiStructured)}


def parse_sparsity(sparsity: Sparsity | str) -> Sparsity:
    """A pattern from itself or from its name, which then means the zeros that are there ("2:4": prunes to it).

    Raises FormatError for an unknown one.
    """
    if isinstance(sparsity, Sparsity):
        return sparsity
    if isinstance(sparsity, str) and sparsity.lower() in _KNOWN:
        return _KNOWN[sparsity.lower()]()
    raise FormatError(
        "sparsity", repr(sparsity), "one of " + ", ".join(_KNOWN), "Pass a name, or rt.Unstructured(0.9) and the like."
    )


def asked_for(patterns: SparsityMap | None, name: str) -> bool:
    """Whether a layer is to be sparse whatever is held to be faster."""
    pattern = None if patterns is None else patterns(name)
    return pattern is not None and pattern.always


class SparsityMap:
    """The pattern of one layer by its dotted module name; the first name pattern that fits wins, None where none does."""

    def __init__(self, sparsity: SparsityLike) -> None:
        pairs = sparsity.items() if isinstance(sparsity, Mapping) else [("*", sparsity)]
        self._patterns = [
            (check_pattern("sparsity", name), None if value is None else parse_sparsity(value)) for name, value in pairs
        ]

    def __call__(self, module_name: str) -> Sparsity | None:
        for pattern, sparsity in self._patterns:
            if fnmatch.fnmatchcase(module_name, pattern):
                return sparsity
        return None
