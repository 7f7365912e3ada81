"""Schemes: how the weights and activations of a layer are stored and multiplied.

A scheme is a small frozen value. `parse_scheme` also takes its lower-case name, and a dict from
module-name pattern to scheme, so that each layer can have its own.
"""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import ClassVar, Literal, Union

from rtaccel.core.errors import FormatError

Observer = Literal["absmax", "percentile", "mse"]

Rounding = Literal["nearest", "bias", "gptq"]

Balance = Literal["weights", "activations"]


@dataclass(frozen=True)
class Scheme:
    """Base class. A subclass with a `name` can be asked for by that name, and says all that the rest goes by.

    weight_format: the module of rtaccel.formats whose `stage_weights` stores a weight [N, K]; "" of a scheme that layers are not
        computed in.
    limits_k: a sum has at most so many products as int32 holds of int8 ones.
    evens_columns: a static int8 input may have a factor for each column, which the weights are divided by.
    """

    name: ClassVar[str] = ""
    weight_format: ClassVar[str] = ""
    limits_k: ClassVar[bool] = True
    evens_columns: ClassVar[bool] = False

    def nearest(self) -> Scheme:
        """What stands in where an operator has no kernel for this scheme."""
        return Float32()

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Float32(Scheme):
    """float32 weights and activations: nothing is rounded that torch would not round."""

    name: ClassVar[str] = "float32"
    weight_format: ClassVar[str] = "float32"
    limits_k: ClassVar[bool] = False


@dataclass(frozen=True)
class BFloat16(Scheme):
    """bfloat16 weights, sums in float32. A kernel may round activations to bfloat16 too; those on the CPU do not."""

    name: ClassVar[str] = "bfloat16"
    weight_format: ClassVar[str] = "bf16"
    limits_k: ClassVar[bool] = False


@dataclass(frozen=True)
class Float8(Scheme):
    """float8 (e4m3) weights with a scale per output channel; float8 activations with a scale per row, from the row itself.

    For GPUs from compute capability 8.9 on, and linear layers. Elsewhere it is computed in plain torch, and `explain()` says so.
    """

    name: ClassVar[str] = "float8"
    weight_format: ClassVar[str] = "fp8"


class Rounded(Scheme):
    """What the schemes share whose weights are integers.

    rounding: "nearest" rounds each weight alone. "gptq" rounds those of linear, convolutional and recurrent layers for their
        inputs on the calibration data, which it then needs: the error of each is made up for by the others of its row
        (Frantar et al., "GPTQ", 2023), and the bias takes up what is left on average. "bias" rounds to the nearest and lets
        the bias take up the mean error. The same kernels, the same bytes; seconds for 1024 x 1024.
    balance: what evens out the columns between a linear layer or convolution and the one before it, where ReLU, LeakyReLU or
        nothing lies between: each column of the value is divided by a number, which the layer before takes into its rows
        and this one into its columns, so that the float function stays. "weights" brings the ranges of both weights together
        (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019). "activations" moves half
        of the difference between columns of the value into the weights (Xiao et al., "SmoothQuant", 2023), and needs
        calibration. For `rt.compile` and `rt.stream`.
    """

    rounding: Rounding
    balance: Balance | None


class Int8Activation(Rounded):
    """What the schemes with int8 activations share.

    activation: "static" uses one scale and zero point per tensor, from calibration data;
        "dynamic" one scale per row, from the row itself. None takes static where calibration data is
        given and dynamic where not, and the report says which.
    observer: how calibration picks the static range. "absmax" covers every value seen, "percentile"
        the central 99.99 %, "mse" whichever clipping of the range loses least on what was seen.
    """

    activation: Literal["static", "dynamic"] | None
    observer: Observer

    def __post_init__(self) -> None:
        op = type(self).__name__
        if self.activation not in ("static", "dynamic", None):
            raise FormatError(op, repr(self.activation), 'activation "static", "dynamic" or None', "Name one of these.")
        if self.observer not in ("absmax", "percentile", "mse"):
            raise FormatError(op, repr(self.observer), 'observer "absmax", "percentile" or "mse"', "Name one of these.")
        check_rounding(op, self)

    def __str__(self) -> str:
        return self.name if self.activation is None else f"{self.name}({self.activation})"


@dataclass(frozen=True)
class W8A8(Int8Activation):
    """int8 weights, symmetric per output channel; int8 activations. See Int8Activation and Rounded for its options."""

    name: ClassVar[str] = "w8a8"
    weight_format: ClassVar[str] = "int8"
    evens_columns: ClassVar[bool] = True
    activation: Literal["static", "dynamic"] | None = None
    observer: Observer = "mse"
    rounding: Rounding = "nearest"
    balance: Balance | None = None

    __str__ = Int8Activation.__str__


@dataclass(frozen=True)
class W8A16(Rounded):
    """int8 weights, symmetric per output channel; activations of 16 bits, nothing to calibrate.

    The sums are of 16-bit fixed-point activations with a scale per row (max |x| / 32639): nearer to float32 than
    bfloat16 activations would be. rounding, balance: see Rounded.
    """

    name: ClassVar[str] = "w8a16"
    weight_format: ClassVar[str] = "int8"
    rounding: Rounding = "nearest"
    balance: Balance | None = None

    def __post_init__(self) -> None:
        check_rounding("W8A16", self)


@dataclass(frozen=True)
class W4A16(Rounded):
    """int4 weights with a scale per group of `group_size` neighboring inputs; activations as in W8A16.

    rounding, balance: see Rounded.
    """

    name: ClassVar[str] = "w4a16"
    weight_format: ClassVar[str] = "int4"
    group_size: int = 32
    rounding: Rounding = "nearest"
    balance: Balance | None = None

    def __post_init__(self) -> None:
        check_group_size("W4A16", self.group_size)
        check_rounding("W4A16", self)


@dataclass(frozen=True)
class W4A8(Int8Activation):
    """int4 weights with a scale per group of `group_size` neighboring inputs; int8 activations as in W8A8.

    rounding, balance: see Rounded.
    """

    name: ClassVar[str] = "w4a8"
    weight_format: ClassVar[str] = "int4"
    group_size: int = 32
    activation: Literal["static", "dynamic"] | None = None
    observer: Observer = "mse"
    rounding: Rounding = "nearest"
    balance: Balance | None = None

    __str__ = Int8Activation.__str__

    def __post_init__(self) -> None:
        super().__post_init__()
        check_group_size("W4A8", self.group_size)

    def nearest(self) -> Scheme:
        return W8A8(self.activation, self.observer, self.rounding, self.balance)


def check_rounding(op: str, scheme: Rounded) -> None:
    """Raises FormatError for what is no way to round or to balance weights."""
    if scheme.rounding not in ("nearest", "bias", "gptq"):
        raise FormatError(op, f"rounding={scheme.rounding!r}", '"nearest", "bias" or "gptq"', "Name one of these.")
    if scheme.balance not in (None, "weights", "activations"):
        raise FormatError(op, f"balance={scheme.balance!r}", 'None, "weights" or "activations"', "Name one of these.")


def check_group_size(op: str, group_size: object) -> int:
    """Raises FormatError for what no kernel takes as the length of a group."""
    if type(group_size) is not int or not 16 <= group_size <= 256 or group_size % 16:
        raise FormatError(
            op, f"group_size={group_size!r}", "a multiple of 16 from 16 to 256", "Take 32, or 64 for fewer scales."
        )
    return group_size


SchemeLike = Union[Scheme, str, Mapping[str, Union[Scheme, str]]]


def scheme_names() -> dict[str, type[Scheme]]:
    """Name of every scheme there is, found through the subclasses of `Scheme`."""
    found: dict[str, type[Scheme]] = {}
    pending = [Scheme]
    while pending:
        cls = pending.pop()
        pending += cls.__subclasses__()
        if cls.name:
            found[cls.name] = cls
    return found


def parse_scheme(scheme: Scheme | str) -> Scheme:
    """A scheme from itself or from its lower-case name. Raises FormatError for an unknown one."""
    if isinstance(scheme, Scheme):
        return scheme
    known = scheme_names()
    if isinstance(scheme, str) and scheme.lower() in known:
        return known[scheme.lower()]()
    close = get_close_matches(scheme.lower(), known, 1) if isinstance(scheme, str) else []
    hint = f"Did you mean {close[0]!r}? " if close else ""
    raise FormatError(
        "scheme",
        repr(scheme),
        "one of " + ", ".join(sorted(known)),
        f"{hint}Pass a name or a scheme object such as rt.W8A8().",
    )


def check_pattern(op: str, pattern: object) -> str:
    """Raises FormatError for what is no pattern of module names."""
    if not isinstance(pattern, str):
        raise FormatError(op, f"{pattern!r} as a pattern", "text such as 'encoder.*'", "Use the modules' dotted names.")
    return pattern


class SchemeMap:
    """Resolves the scheme of one layer by its dotted module name; the first pattern that fits wins.

    A layer that no pattern fits stays float32.
    """

    def __init__(self, scheme: SchemeLike) -> None:
        pairs = scheme.items() if isinstance(scheme, Mapping) else [("*", scheme)]
        self._patterns = [(check_pattern("scheme", pattern), parse_scheme(value)) for pattern, value in pairs]
        self._found: dict[str, Scheme] = {}  # each pass over a graph asks again

    def __call__(self, module_name: str) -> Scheme:
        found = self._found.get(module_name)
        if found is None:
            fits = (scheme for pattern, scheme in self._patterns if fnmatch.fnmatchcase(module_name, pattern))
            found = self._found[module_name] = next(fits, Float32())
        return found

    def names(self, module_name: str) -> bool:
        """Whether a pattern for some layers, not for all, fits this one."""
        return any(pattern != "*" and fnmatch.fnmatchcase(module_name, pattern) for pattern, _ in self._patterns)

    def exact_for(self, module_names: Iterable[str]) -> SchemeMap:
        """The same with these layers in float32."""
        made = copy.copy(self)
        made._found = {**self._found, **dict.fromkeys(module_names, Float32())}
        return made

    @property
    def exact(self) -> bool:
        """Whether every layer stays float32."""
        return all(isinstance(scheme, Float32) for _, scheme in self._patterns)

    def __str__(self) -> str:
        if len(self._patterns) == 1 and self._patterns[0][0] == "*":
            return str(self._patterns[0][1])
        return "{" + ", ".join(f"{p}: {s}" for p, s in self._patterns) + "}"
