"""`sparsify_`: linear layers of a model pruned in place, and swapped for sparse ones. `restore_` undoes it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rtaccel.convert import gate
from rtaccel.convert.allocate import allocate, curve
from rtaccel.convert.calibrate import batches_of
from rtaccel.convert.eligible import Filter, Layer, swappable_layers
from rtaccel.convert.moments import MomentWatch, moments_now
from rtaccel.convert.prune import IN_TURN, METHODS, Moments, check_rows, corrected_bias, output_error
from rtaccel.convert.sparsify_report import SparsifyEntry, SparsifyReport
from rtaccel.convert.swap import put
from rtaccel.convert.watch import watch_inputs
from rtaccel.core.errors import FormatError, RtaccelError, UnsupportedProblem
from rtaccel.core.scheme import W8A8, Scheme, SchemeMap, parse_scheme
from rtaccel.core.sparsity import SemiStructured, Sparsity, SparsityLike, SparsityMap
from rtaccel.formats.int8 import require_finite
from rtaccel.nn.sparse import SparseLinear
from rtaccel.nn.sparse_numbers import sparse_numbers

__all__ = ["SparsifyEntry", "SparsifyReport", "sparsify_"]


def sparsify_(
    model: nn.Module,
    sparsity: SparsityLike,
    filter_fn: Filter | None = None,
    calibration: Iterable[Any] | Tensor | None = None,
    *,
    method: str | None = None,
    allocation: str = "uniform",
    scheme: Scheme | str = "float32",
    swap: bool = True,
    keep_original: bool = True,
    rows: int = 1,
) -> SparsifyReport:
    """Prunes the linear layers of a model, in place, and swaps them for `rtaccel.nn.SparseLinear`.

    sparsity: a pattern such as `rt.Unstructured(0.9)`, its name, or a dict from module-name pattern to it; a layer that no
        pattern fits is kept. Without a fraction, the zeros that a weight has are used and none is added (2:4 always prunes
        to 2:4).
    filter_fn: (module, dotted name) -> whether to change it.
    calibration: model inputs, as `quantize_` takes them. Only second moments and ranges of each layer's inputs are kept.
    method: "magnitude", "wanda", "second" or "refit" (rtaccel.convert.prune has the formulas and sources); None takes
        "refit" with calibration data and "magnitude" without. With data, the bias takes up what is lost on average.
    allocation: "uniform", every layer as sparse as its pattern says; "global", the fraction is that of all weights
        together, and layers that can spare more give more. 2:4 is always uniform.
    scheme: of the sparse layers, float32 or W8A8. For a model that is compiled afterwards leave it float32: `rt.compile`
        quantises as its own scheme says and uses the zeros.
    swap: False leaves nn.Linear layers with zeros in them, which can be trained on (`rt.keep_zeros`).
    keep_original: keep what `restore_` needs, which takes the memory of the float weights.
    rows: rows to time each layer with. Unlike `quantize_`, no layer is kept for being slower: its weights have changed. A
        SparseLinear runs dense where a sparse kernel is not faster, and its `explain()` says so.

    An exception leaves the model as it was. Raises UnsupportedProblem for a model in training mode, for one that is a layer
    itself, and for schemes without a sparse form; FormatError for numbers that are not finite, for a sparsity outside 0..1,
    for a method that needs calibration data and has none, or fewer rows than it needs.

    Example:
        >>> import torch, rtaccel as rt
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4)).eval()
        >>> report = rt.sparsify_(model, rt.Unstructured(0.8), calibration=[torch.randn(256, 64)])
        >>> report.changed, round(report.zeros, 2), rt.restore_(model)
        (2, 0.8, 2)
    """
    scheme, patterns = parse_scheme(scheme), SparsityMap(sparsity)
    chosen = method or ("magnitude" if calibration is None else "refit")
    _check(model, chosen, allocation, scheme, calibration)
    layers = [_Layer.of(layer, patterns) for layer in swappable_layers(model, SchemeMap("w8a8"), filter_fn)
              if isinstance(layer.module, nn.Linear)]  # fmt: skip
    for layer in layers:
        if layer.pattern is not None:
            sparse_numbers("sparsify_", layer.pattern, scheme)
            require_finite(layer.module.weight.detach(), "sparsify_", f"{layer.name}.weight")
    watched: dict[nn.Module, MomentWatch] = {}
    if calibration is not None:
        watched = {x.module: MomentWatch(x.name, x.module.in_features) for x in layers if x.pattern is not None}
        calibration = list(batches_of("sparsify_", calibration))
        watch_inputs(model, watched, calibration, "sparsify_")
    levels = _levels([x for x in layers if x.pattern is not None], watched, allocation)
    work = _Work(model, calibration) if chosen in IN_TURN else None
    drafts = [_draft(layer, levels, watched.get(layer.module), work, chosen, scheme, swap, rows)
              for layer in _as_called(layers, watched)]  # fmt: skip
    order = {layer.name: i for i, layer in enumerate(layers)}
    drafts.sort(key=lambda draft: order[draft.layer.name])
    for draft in drafts:
        if draft.pruned is not None and draft.candidate is None:
            _write(draft.layer.module, draft.pruned, draft.bias, keep_original)
    put(model, [(d.layer.names, d.layer.module, d.candidate) for d in drafts if d.candidate is not None], keep_original)
    return SparsifyReport(tuple(d.entry for d in drafts))


class _Work:
    """A copy of the model in which layers are pruned one after another, each seeing the inputs that those before leave it."""

    def __init__(self, model: nn.Module, batches: Any) -> None:
        self.model, self.batches = model, batches
        self.copy = copy.deepcopy(model)

    def moments(self, name: str) -> Moments:
        return moments_now(self.model, self.copy, name, self.batches)

    def prune(self, name: str, weight: Tensor, bias: Tensor | None) -> None:
        module = self.copy.get_submodule(name)
        assert isinstance(module, nn.Linear)
        with torch.no_grad():
            module.weight.copy_(weight)
            if bias is not None:
                module.bias.copy_(bias)


def _as_called(layers: list[_Layer], watched: Mapping[nn.Module, MomentWatch]) -> list[_Layer]:
    """In the order in which calibration reached them first."""
    reached = sorted((w for w in watched.values() if w.first is not None), key=lambda w: w.first or 0)
    place = {w.name: i for i, w in enumerate(reached)}
    return sorted(layers, key=lambda layer: place.get(layer.name, len(place)))


@dataclass(frozen=True, eq=False)
class _Layer:
    module: nn.Linear
    names: tuple[str, ...]
    pattern: Sparsity | None
    reason: str | None

    @property
    def name(self) -> str:
        return self.names[0]

    @classmethod
    def of(cls, layer: Layer, patterns: SparsityMap) -> _Layer:
        assert isinstance(layer.module, nn.Linear)
        found = {str(p): p for p in (patterns(name) for name in layer.names)}
        pattern, reason = next(iter(found.values())), layer.reason
        if reason is None and len(found) > 1:
            reason = "the patterns give its names different sparsity"
        if reason is None and pattern is None:
            reason = "no pattern fits its name"
        return cls(layer.module, layer.names, None if reason else pattern, reason)


@dataclass(frozen=True, eq=False)
class _Draft:
    layer: _Layer
    entry: SparsifyEntry
    pruned: Tensor | None = None
    bias: Tensor | None = None
    candidate: SparseLinear | None = None


def _check(model: Any, method: str, allocation: str, scheme: Scheme, calibration: Any) -> None:
    if not isinstance(model, nn.Module) or isinstance(model, (nn.Linear, SparseLinear)):
        got = (
            f"a model that is itself a {type(model).__name__}" if isinstance(model, nn.Module) else type(model).__name__
        )
        expected = "an nn.Module that holds its layers, so that they can be replaced in it"
        raise UnsupportedProblem("sparsify_", got, expected, "Use rt.nn.SparseLinear.from_float(layer).")
    if model.training:
        raise UnsupportedProblem(
            "sparsify_", "a model in training mode", "one in eval mode", "Call model.eval() first."
        )
    if method not in METHODS:
        raise FormatError("sparsify_", f"method={method!r}", "one of " + ", ".join(METHODS), "Name one of these.")
    if allocation not in ("uniform", "global"):
        raise FormatError("sparsify_", f"allocation={allocation!r}", '"uniform" or "global"', "Name one of these.")
    if method != "magnitude" and calibration is None:
        got = f"method={method!r} without calibration data"
        raise FormatError("sparsify_", got, "calibration= with real inputs", "Pass some, or take method='magnitude'.")
    if isinstance(scheme, W8A8) and scheme.activation == "static" and calibration is None:
        raise FormatError(
            "sparsify_", "W8A8(activation='static') without calibration data", "calibration= with real inputs",
            "Pass some, or take W8A8(activation='dynamic').",
        )  # fmt: skip


def _levels(layers: list[_Layer], watched: Mapping[nn.Module, MomentWatch], allocation: str) -> dict[nn.Module, float]:
    """Sparsity of each layer under one target, for those whose pattern gives a fraction; by pattern."""
    if allocation == "uniform":
        return {}
    found: dict[nn.Module, float] = {}
    groups: dict[Sparsity, list[_Layer]] = {}
    for layer in layers:
        pattern = layer.pattern
        if pattern is not None and pattern.sparsity is not None and not isinstance(pattern, SemiStructured):
            groups.setdefault(pattern, []).append(layer)
    for pattern, members in groups.items():
        sizes, losses = {}, {}
        for layer in members:
            watch = watched.get(layer.module)
            moments = None if watch is None or not watch.rows else watch.moments()
            sizes[layer.name] = layer.module.weight.numel()
            losses[layer.name] = curve(layer.module.weight.detach(), pattern, moments)
        assert pattern.sparsity is not None
        shares = allocate(sizes, losses, pattern.sparsity)
        found |= {layer.module: shares[layer.name] for layer in members}
    return found


def _draft(
    layer: _Layer,
    levels: Mapping[nn.Module, float],
    watch: MomentWatch | None,
    work: _Work | None,
    method: str,
    scheme: Scheme,
    swap: bool,
    rows: int,
) -> _Draft:
    """What becomes of a layer. The model is not touched."""
    module, pattern = layer.module, layer.pattern
    common: dict[str, Any] = {
        "fqn": layer.name,
        "shape": (module.out_features, module.in_features),
        "bytes_before": sum(p.numel() * p.element_size() for p in module.parameters()),
        "also": layer.names[1:],
    }
    reason = layer.reason
    if reason is None and watch is not None and not watch.rows:
        reason = "no calibration batch reached it"
    if reason is not None or pattern is None:
        return _Draft(layer, SparsifyEntry(action="kept", reason=reason or "", **common))
    if module in levels:
        pattern = replace(pattern, sparsity=levels[module])  # type: ignore[type-var]
    weight, bias = module.weight.detach(), None if module.bias is None else module.bias.detach()
    moments = None if watch is None else watch.moments()
    if moments is not None:
        check_rows(layer.name, method, moments)
        moments = work.moments(layer.name) if work is not None else moments
    pruned = METHODS[method](weight.cpu(), pattern, moments).to(weight.device)
    new_bias: Tensor | None = bias
    shift: Tensor | None = None
    if moments is not None and bias is not None:
        corrected = corrected_bias(weight.cpu(), pruned.cpu(), bias.cpu(), moments)
        shift, new_bias = corrected - bias.cpu(), corrected.to(bias.device)
    if work is not None:
        work.prune(layer.name, pruned, new_bias)
    entry = SparsifyEntry(
        action="swapped" if swap else "pruned",
        reason="as asked for",
        sparsity=str(pattern),
        method=method,
        zeros=1 - int(torch.count_nonzero(pruned)) / pruned.numel(),
        error=output_error(weight.cpu(), pruned.cpu(), shift, moments or _normal(module.in_features)),
        **common,
    )
    if not swap:
        return _Draft(layer, entry, pruned, new_bias)
    try:
        candidate = _candidate(module, pruned, new_bias, scheme, pattern, watch)
    except RtaccelError as error:
        raise type(error)(f"sparsify_: {layer.name}: {error.op}", error.got, error.expected, error.next_step) from error
    x = torch.randn(rows, module.in_features, device=weight.device, generator=torch.Generator().manual_seed(0))
    us_before, us_after = gate.compare(module, candidate, x)
    form = "; ".join(note.split(" is computed ", 1)[-1] for note in candidate._pack().notes)
    bytes_after = sum(t.numel() * t.element_size() for t in candidate.buffers())
    entry = replace(
        entry, reason=form or "as asked for", bytes_after=bytes_after, us_before=us_before, us_after=us_after
    )
    return _Draft(layer, entry, pruned, new_bias, candidate)


def _normal(width: int) -> Moments:
    return Moments.of_dense(torch.eye(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64), 0)


def _candidate(
    module: nn.Linear, pruned: Tensor, bias: Tensor | None, scheme: Scheme, pattern: Sparsity, watch: MomentWatch | None
) -> SparseLinear:
    twin = nn.Linear(module.in_features, module.out_features, bias is not None, device="meta")
    twin.weight = nn.Parameter(pruned, requires_grad=False)
    if bias is not None:
        twin.bias = nn.Parameter(bias, requires_grad=False)
    keep = pattern if isinstance(pattern, SemiStructured) else replace(pattern, sparsity=None)  # type: ignore[type-var]
    observer = watch.observer if watch is not None else None
    return SparseLinear.from_float(twin.train(module.training), scheme, observer, sparsity=keep, mask=pruned != 0)


def _write(module: nn.Linear, pruned: Tensor, bias: Tensor | None, keep_original: bool) -> None:
    if keep_original:
        kept = (module.weight.detach().clone(), None if module.bias is None else module.bias.detach().clone())
        module.__dict__.setdefault("_unpruned", kept)
    with torch.no_grad():
        module.weight.copy_(pruned)
        if bias is not None:
            module.bias.copy_(bias)
