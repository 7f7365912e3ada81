"""`sparsify_`: layers of a model pruned in place, and swapped for sparse ones. `restore_` undoes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from torch import Tensor, nn

from rtaccel.convert.frontend.batches import batches_of
from rtaccel.convert.frontend.checks import check_model, check_options
from rtaccel.convert.module_swap.eligibility import Filter, swapped_before
from rtaccel.convert.module_swap.name_patterns import unmatched
from rtaccel.convert.module_swap.placing import put
from rtaccel.convert.pruning.input_statistics import StatisticsObserver
from rtaccel.convert.pruning.sparsify_layer import PrunedLayer, Pruner, PruneResult, Work, layers_of
from rtaccel.convert.pruning.sparsify_report import SparsifyEntry, SparsifyReport
from rtaccel.convert.pruning.sparsity_allocation import allocate_sparsity, curve
from rtaccel.convert.pruning.weight_matrices import Prunable, matrices_of
from rtaccel.convert.quantization.input_observer import watch_inputs
from rtaccel.convert.weights.prune import IN_TURN, METHODS
from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.log import log
from rtaccel.core.progress import counted
from rtaccel.core.scheme import Int8Activation, Scheme, parse_scheme
from rtaccel.core.sparsity import SemiStructured, Sparsity, SparsityLike, SparsityMap
from rtaccel.formats.int8 import require_finite
from rtaccel.nn.params.sparse import sparse_params
from rtaccel.nn.sparse import SparseLinear

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
    """Prunes the layers of a model, in place: linear ones, which are swapped for `rtaccel.nn.SparseLinear`, LSTM and GRU,
    which with scheme=W8A8 are swapped for `QuantLSTM` and `QuantGRU`, convolutions without groups and nn.MultiheadAttention.
    What is not swapped stays the torch layer that it is, with zeros, and `rt.compile` uses them where that is faster.

    sparsity: a pattern such as `rt.Unstructured(0.9)`, its name, or a dict from module-name pattern to it; a layer that no
        pattern fits is kept. Without a fraction, the zeros that a weight has are used and none is added (2:4 always prunes
        to 2:4).
    filter_fn: (module, dotted name) -> whether to change it.
    calibration: model inputs, as `quantize_` takes them: batches of float32 [batch, ...]. Only second moments and ranges of what
        each matrix multiplies are kept (`rtaccel.convert.pruning.weight_matrices`).
    method: "magnitude", "wanda", "sparsegpt" (also "second") or "least_squares" (also "refit"); None takes
        the last with calibration data and "magnitude" without (formulas and sources: rtaccel.convert.weights.prune). With data,
        the bias takes up what is lost on average.
    allocation: "uniform", every layer as sparse as its pattern says; "global", the fraction is that of all weights
        together, and layers that can spare more give more. 2:4 is always uniform.
    scheme: of the sparse layers, float32 or W8A8, W4A8 in 2:4. For a model that is compiled afterwards leave it float32:
        `rt.compile` quantizes as its own scheme says and uses the zeros.
    swap: False leaves all layers as they are with zeros in them, which can be trained on (`rt.keep_zeros`).
    keep_original: keep what `restore_` needs, which takes the memory of the float weights.
    rows: batch size to time each layer with. Unlike `quantize_`, no layer is kept for being slower: its weights have changed. A
        SparseLinear runs dense where a sparse kernel is not faster, and its `explain()` says so.

    An exception leaves the model as it was. Raises UnsupportedProblem for a model in training mode, for one that is a layer
    itself, and for schemes without a sparse form; FormatError for weights or inputs that are not finite, for a sparsity outside
    0..1, for a method that needs calibration data and has none, or fewer rows than it needs.

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
    check_options("sparsify_", filter_fn, rows, swap, keep_original)
    layers = layers_of(model, patterns, filter_fn)
    for layer in layers:
        if layer.pattern is not None:
            sparse_params("sparsify_", layer.pattern, scheme)
            for matrix in matrices_of(layer.module):
                require_finite(layer.module.get_parameter(matrix.parameter).detach(), "sparsify_",
                               f"{layer.name}.{matrix.parameter}")  # fmt: skip
    notes = (*unmatched("sparsify_", sparsity, model), *swapped_before("sparsify_", model, not layers))
    watched: dict[nn.Module, StatisticsObserver] = {}
    if calibration is not None:
        watched = {x.module: StatisticsObserver(x.name, x.module) for x in layers if x.pattern is not None}
        calibration = list(batches_of("sparsify_", calibration))
        watch_inputs(model, watched, calibration, "sparsify_")
    levels = _levels([x for x in layers if x.pattern is not None], watched, allocation)
    work = Work(model, calibration) if chosen in IN_TURN else None
    pruner = Pruner(chosen, scheme, swap, rows, work, levels)
    results = []
    with counted("sparsify_", len(layers), "layers") as advance:
        for layer in _as_called(layers, watched):
            results.append(pruner.result(layer, watched.get(layer.module)))
            advance()
    order = {layer.name: i for i, layer in enumerate(layers)}
    results.sort(key=lambda result: order[result.layer.name])
    for result in results:
        if result.pruned and result.candidate is None:
            _write(result, keep_original)
    swapped = [(r.layer.names, r.layer.module, r.candidate) for r in results if r.candidate is not None]
    put(model, swapped, keep_original)  # type: ignore[arg-type]
    report = SparsifyReport(tuple(entry for r in results for entry in r.entries), notes)
    for entry in report:
        log.debug("sparsify_: %s %s: %s", entry.fqn, entry.action, entry.reason)
    log.info("sparsify_: %d of %d matrices changed, %.1f%% zeros", report.changed, len(report), 100 * report.zeros)
    return report


def _as_called(layers: list[PrunedLayer], watched: Mapping[nn.Module, StatisticsObserver]) -> list[PrunedLayer]:
    """In the order in which calibration reached them first."""
    reached = sorted((w for w in watched.values() if w.first is not None), key=lambda w: w.first or 0)
    place = {w.name: i for i, w in enumerate(reached)}
    return sorted(layers, key=lambda layer: place.get(layer.name, len(place)))


def _write(result: PruneResult, keep_original: bool) -> None:
    module = result.layer.module
    if keep_original:
        kept = {name: p.detach().clone() for name, p in module.named_parameters()}
        module.__dict__.setdefault("_unpruned", kept)
    for matrix, weight, bias in result.pruned:
        matrix.write(module, weight, bias)


def _check(model: Any, method: str, allocation: str, scheme: Scheme, calibration: Any) -> None:
    if not isinstance(model, nn.Module) or isinstance(model, (*get_args(Prunable), SparseLinear)):
        got = (
            f"a model that is itself a {type(model).__name__}" if isinstance(model, nn.Module) else type(model).__name__
        )
        expected = "an nn.Module that holds its layers, so that they can be replaced in it"
        raise UnsupportedProblem("sparsify_", got, expected, "Use rt.nn.SparseLinear.from_float(layer).")
    check_model("sparsify_", model)
    if method not in METHODS:
        raise FormatError("sparsify_", f"method={method!r}", "one of " + ", ".join(METHODS), "Name one of these.")
    if allocation not in ("uniform", "global"):
        raise FormatError("sparsify_", f"allocation={allocation!r}", '"uniform" or "global"', "Name one of these.")
    if method != "magnitude" and calibration is None:
        got = f"method={method!r} without calibration data"
        raise FormatError("sparsify_", got, "calibration= with real inputs", "Pass some, or take method='magnitude'.")
    if isinstance(scheme, Int8Activation) and scheme.activation == "static" and calibration is None:
        raise FormatError(
            "sparsify_", f"{scheme} without calibration data", "calibration= with real inputs",
            "Pass some, or take the scheme with activation='dynamic'.",
        )  # fmt: skip


def _levels(
    layers: list[PrunedLayer], watched: Mapping[nn.Module, StatisticsObserver], allocation: str
) -> dict[tuple[nn.Module, int], float]:
    """Sparsity of each matrix under one target, for those whose pattern gives a fraction; by pattern."""
    if allocation == "uniform":
        return {}
    found: dict[tuple[nn.Module, int], float] = {}
    groups: dict[Sparsity, list[tuple[PrunedLayer, int]]] = {}
    for layer in layers:
        pattern = layer.pattern
        if pattern is not None and pattern.sparsity is not None and not isinstance(pattern, SemiStructured):
            groups.setdefault(pattern, []).extend((layer, i) for i in range(len(matrices_of(layer.module))))
    for pattern, members in groups.items():
        sizes, losses = {}, {}
        for layer, index in members:
            watch = watched.get(layer.module)
            statistics = None if watch is None or not watch.rows[index] else watch.statistics(index)
            weight = matrices_of(layer.module)[index].weight(layer.module)
            sizes[f"{layer.name}:{index}"] = weight.numel()
            losses[f"{layer.name}:{index}"] = curve(weight, pattern, statistics)
        assert pattern.sparsity is not None
        shares = allocate_sparsity(sizes, losses, pattern.sparsity)
        found |= {(layer.module, index): shares[f"{layer.name}:{index}"] for layer, index in members}
    return found
