"""What may become of each layer: the options asked for, those that an operator has kernels for, and what is to stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from rtaccel.convert.frontend.graph.op_graph import OpGraph
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.quantization.scheme_rules import available, takes_schemes
from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.layer_forms import LayerForm, LowRank, Pruned
from rtaccel.core.scheme import W4A8, W4A16, W8A8, Float32, Scheme, parse_scheme, scheme_names
from rtaccel.core.sparsity import Sparsity, parse_sparsity

DEFAULT = ("float32", "w8a8", "w4a8")

OP = "fit_budget"


@dataclass(frozen=True)
class LayerOptions:
    """name: of its module. shape: of its largest weight. options: in the order asked for; the first is the reference,
    float32 unless `keep` says otherwise. kept: it has that one alone."""

    name: str
    shape: tuple[int, ...]
    options: tuple[Scheme, ...]
    kept: bool = False

    def label(self, option: int) -> str:
        return str(self.options[option])


def parse_options(options: Any, calibrated: bool) -> tuple[Scheme, ...]:
    """Every way to compute a layer that the options name, float32 first.

    A pattern of sparsity and `rt.LowRank` are combined with the schemes beside them. int4 that is asked for by name is rounded
    for its inputs where there is calibration data. Raises FormatError for what is none of these.
    """
    if isinstance(options, (str, bytes, Mapping)) or not isinstance(options, Sequence) or not options:
        got = f"options={options!r}"
        raise FormatError(OP, got, 'a list such as ("float32", "w8a8")', "Name schemes, patterns and rt.LowRank.")
    schemes: list[Scheme] = [Float32()]
    patterns: list[Sparsity] = []
    ranks: list[LowRank] = []
    forms: list[Scheme] = []
    for option in options:
        found = _parse(option)
        if isinstance(found, Sparsity):
            patterns.append(found)
        elif isinstance(found, LowRank) and isinstance(found.inner, Float32):
            ranks.append(found)
        elif isinstance(found, LayerForm):
            forms.append(found)
        else:
            by_name = isinstance(option, str) and calibrated and isinstance(found, (W4A8, W4A16))
            schemes.append(replace(found, rounding="gptq") if by_name else found)  # type: ignore[call-arg]
    schemes = list(dict.fromkeys(schemes))
    sparse = [scheme for scheme in schemes if isinstance(scheme, (Float32, W8A8))]
    forms += [Pruned(pattern, scheme) for pattern in patterns for scheme in sparse]
    forms += [LowRank(form.share, scheme) for form in ranks for scheme in schemes]
    return tuple(dict.fromkeys([*schemes, *forms]))


def _parse(option: Any) -> Scheme | Sparsity:
    if isinstance(option, (Scheme, Sparsity)):
        return option
    if isinstance(option, str):
        if option.lower() in scheme_names():
            return parse_scheme(option)
        try:
            return parse_sparsity(option)
        except FormatError:
            pass
    known = sorted(name for name, cls in scheme_names().items() if cls.weight_format)
    close = get_close_matches(str(option).lower(), known, 1)
    raise FormatError(
        OP, f"{option!r} among the options", f"{', '.join(known)}, a pattern of sparsity or rt.LowRank",
        f"Did you mean {close[0]!r}?" if close else "Correct it, or leave it out.",
    )  # fmt: skip


def layers_of(
    graph: OpGraph, options: Sequence[Scheme], keep: Mapping[str, Any] | None, notes: list[str]
) -> tuple[LayerOptions, ...]:
    """The layers that schemes are for, with what each may become. Raises FormatError for an unknown name in `keep`,
    UnsupportedProblem where there is no such layer."""
    nodes: dict[str, list[OpNode]] = {}
    for op_node in graph.op_nodes:
        if not op_node.is_fallback and takes_schemes(op_node.operator) and not op_node.swapped:
            nodes.setdefault(op_node.name, []).append(op_node)
    if not nodes:
        raise UnsupportedProblem(
            OP, "a model without a layer that schemes are for", "linear, convolutional, recurrent or attention layers",
            "rt.compile(model, inputs).explain() shows what the model is made of.",
        )  # fmt: skip
    fixed = _kept(list(nodes), keep)
    layers = []
    for name, found in nodes.items():
        shape = max((tuple(t.shape) for n in found for t in n.tensors.values()), key=lambda s: _size(s))
        if name in fixed:
            if (why := _unavailable(found, fixed[name])) is not None:
                raise FormatError(
                    OP, f"keep={{{name!r}: {fixed[name]}}}", "a scheme with a kernel for it", f"{why}: take another."
                )
            layers.append(LayerOptions(name, shape, (fixed[name],), kept=True))
            continue
        usable = []
        for option in options:
            why = _unavailable(found, option)
            if why is None:
                usable.append(option)
            else:
                notes.append(f"{name}: {option} is no option, {why}")
        layers.append(LayerOptions(name, shape, tuple(usable)))
    return tuple(layers)


def _size(shape: Sequence[int]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


def _unavailable(op_nodes: Sequence[OpNode], option: Scheme) -> str | None:
    """Why the nodes of a layer cannot be computed so; None where they can."""
    inner = option.inner if isinstance(option, LayerForm) else option
    if not inner.weight_format:
        return "it stores no weights"
    for op_node in op_nodes:
        if available(op_node.op, op_node.name, inner, []) != inner:
            return f"there is no {inner.name} kernel for {op_node.op}"
        weight = op_node.tensors.get("weight")
        matrix = op_node.operator.sparse.is_matrix and weight is not None and weight.dim() == 2
        if isinstance(option, LayerForm) and not (matrix and len(op_node.reads) == 1):
            return "which is for linear layers"
        if isinstance(option, LowRank) and weight is not None and min(weight.shape) < 8:
            return f"a weight of {weight.shape[0]} x {weight.shape[1]} has too low a rank already"
    return None


def _kept(names: Sequence[str], keep: Mapping[str, Any] | None) -> dict[str, Scheme]:
    """The scheme of each layer that a pattern of `keep` fits."""
    if keep is None:
        return {}
    if not isinstance(keep, Mapping):
        raise FormatError(
            OP, f"keep={keep!r}", "a dict from module-name pattern to scheme", 'Write {"head": "float32"}.'
        )
    found: dict[str, Scheme] = {}
    for pattern, scheme in keep.items():
        parsed = parse_scheme(scheme)
        fitting = [name for name in names if isinstance(pattern, str) and fnmatchcase(name, pattern)]
        if not fitting:
            close = get_close_matches(str(pattern), names, 2)
            hint = f"Did you mean {' or '.join(map(repr, close))}?" if close else "Correct it, or leave it out."
            shown = ", ".join(names[:12]) + (" ..." if len(names) > 12 else "")
            raise FormatError(OP, f"keep={{{pattern!r}: ...}}, which fits no layer", f"names among {shown}", hint)
        for name in fitting:
            found.setdefault(name, parsed)
    return found
