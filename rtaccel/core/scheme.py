"""Schemes: how the weights and activations of a layer are stored and multiplied.

A scheme is a small frozen value. `parse_scheme` also takes its lower-case name, and a dict from
module-name pattern to scheme, so that each layer can have its own.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Union

from rtaccel.core.errors import FormatError

Observer = Literal["absmax", "percentile", "mse"]


@dataclass(frozen=True)
class Scheme:
    """Base class. A subclass with a `name` can be asked for by that name."""

    name: ClassVar[str] = ""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Float32(Scheme):
    """float32 weights and activations: nothing is rounded that torch would not round."""

    name: ClassVar[str] = "float32"


@dataclass(frozen=True)
class W8A8(Scheme):
    """int8 weights, symmetric per output channel; int8 activations.

    activation: "static" uses one scale and zero point per tensor, from calibration data;
        "dynamic" one scale per row, from the row itself. None takes static where calibration data is
        given and dynamic where not, and the report says which.
    observer: how calibration picks the static range. "absmax" covers every value seen, "percentile"
        the central 99.99 %, "mse" whichever clipping of the range loses least on what was seen.
    """

    name: ClassVar[str] = "w8a8"
    activation: Literal["static", "dynamic"] | None = None
    observer: Observer = "mse"

    def __post_init__(self) -> None:
        if self.activation not in ("static", "dynamic", None):
            raise FormatError(
                "W8A8", repr(self.activation), 'activation "static", "dynamic" or None', "Name one of these."
            )
        if self.observer not in ("absmax", "percentile", "mse"):
            raise FormatError(
                "W8A8", repr(self.observer), 'observer "absmax", "percentile" or "mse"', "Name one of these."
            )

    def __str__(self) -> str:
        return self.name if self.activation is None else f"{self.name}({self.activation})"


SchemeLike = Union[Scheme, str, Mapping[str, Union[Scheme, str]]]


def scheme_names() -> dict[str, type[Scheme]]:
    """Name of every scheme there is, found through the subclasses of `Scheme`."""
    return {cls.name: cls for cls in Scheme.__subclasses__() if cls.name}


def parse_scheme(scheme: Scheme | str) -> Scheme:
    """A scheme from itself or from its lower-case name. Raises FormatError for an unknown one."""
    if isinstance(scheme, Scheme):
        return scheme
    known = scheme_names()
    if isinstance(scheme, str) and scheme.lower() in known:
        return known[scheme.lower()]()
    raise FormatError(
        "scheme",
        repr(scheme),
        "one of " + ", ".join(sorted(known)),
        "Pass a name or a scheme object such as rt.W8A8().",
    )


class SchemeMap:
    """Resolves the scheme of one layer by its dotted module name; the first pattern that fits wins.

    A layer that no pattern fits stays float32.
    """

    def __init__(self, scheme: SchemeLike) -> None:
        pairs = scheme.items() if isinstance(scheme, Mapping) else [("*", scheme)]
        self._patterns = [(pattern, parse_scheme(value)) for pattern, value in pairs]

    def __call__(self, module_name: str) -> Scheme:
        for pattern, scheme in self._patterns:
            if fnmatch.fnmatchcase(module_name, pattern):
                return scheme
        return Float32()

    def __str__(self) -> str:
        if len(self._patterns) == 1 and self._patterns[0][0] == "*":
            return str(self._patterns[0][1])
        return "{" + ", ".join(f"{p}: {s}" for p, s in self._patterns) + "}"
