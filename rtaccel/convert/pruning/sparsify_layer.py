"""Pruning the layers of a model one by one: what becomes of each, without touching the model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from rtaccel.convert.module_swap import benchmark
from rtaccel.convert.module_swap.eligibility import Filter, attention_layers, swappable_layers
from rtaccel.convert.pruning.input_statistics import StatisticsObserver, statistics_now
from rtaccel.convert.pruning.sparsify_report import SparsifyEntry
from rtaccel.convert.pruning.weight_matrices import Matrix, Prunable, matrices_of
from rtaccel.convert.weights.prune import METHODS, InputStatistics, check_rows, corrected_bias, output_error
from rtaccel.core.errors import RtaccelError
from rtaccel.core.scheme import W8A8, Scheme, SchemeMap
from rtaccel.core.sparsity import SemiStructured, Sparsity, SparsityMap
from rtaccel.nn.recurrent import QuantGRU, QuantLSTM
from rtaccel.nn.sparse import SparseLinear

Candidate = SparseLinear | QuantLSTM | QuantGRU


@dataclass(frozen=True, eq=False)
class PrunedLayer:
    """A layer under all its names, and the pattern it is pruned to; without one, the reason. stays: why it is pruned where
    it is, though others of its type are swapped."""

    module: Prunable
    names: tuple[str, ...]
    pattern: Sparsity | None
    reason: str | None
    stays: str | None = None

    @property
    def name(self) -> str:
        return self.names[0]


def layers_of(model: nn.Module, patterns: SparsityMap, filter_fn: Filter | None) -> list[PrunedLayer]:
    """In the order of the model."""
    attention = attention_layers(model, filter_fn)
    parts = {id(module.out_proj) for module, _, _ in attention}
    found = []
    for layer in swappable_layers(model, SchemeMap("w8a8"), filter_fn):
        if id(layer.module) in parts:
            continue
        reason = layer.reason if not layer.in_place else None
        if reason is None and isinstance(layer.module, (nn.Conv1d, nn.Conv2d)) and layer.module.groups > 1:
            reason = "is a convolution in groups, each with few weights"
        found.append(_layer(layer.module, layer.names, reason, patterns, layer.reason))
    found += [_layer(module, names, reason, patterns, None) for module, names, reason in attention]
    place = {name: i for i, (name, _) in enumerate(model.named_modules(remove_duplicate=False))}
    return sorted(found, key=lambda layer: place[layer.name])


def _layer(
    module: Prunable, names: tuple[str, ...], reason: str | None, patterns: SparsityMap, stays: str | None
) -> PrunedLayer:
    found = {str(p): p for p in (patterns(name) for name in names)}
    pattern = next(iter(found.values()))
    if reason is None and len(found) > 1:
        reason = "the patterns give its names different sparsity"
    if reason is None and pattern is None:
        reason = "no pattern fits its name"
    return PrunedLayer(module, names, None if reason else pattern, reason, stays)


@dataclass(frozen=True, eq=False)
class PruneResult:
    """pruned: what takes the place of each matrix and of its bias. candidate: what takes the place of the layer."""

    layer: PrunedLayer
    entries: tuple[SparsifyEntry, ...]
    pruned: tuple[tuple[Matrix, Tensor, Tensor | None], ...] = ()
    candidate: Candidate | None = None


class Work:
    """A copy of the model in which matrices are pruned one after another, each seeing the inputs that those before leave it."""

    def __init__(self, model: nn.Module, batches: Any) -> None:
        self.model, self.batches = model, batches
        self.copy = copy.deepcopy(model)

    def statistics(self, name: str, index: int) -> InputStatistics:
        return statistics_now(self.model, self.copy, name, index, self.batches)

    def prune(self, name: str, matrix: Matrix, weight: Tensor, bias: Tensor | None) -> None:
        matrix.write(self.copy.get_submodule(name), weight, bias)


@dataclass(frozen=True, eq=False)
class Pruner:
    """How layers are to be pruned. levels: sparsity of matrices, by layer and index, where the pattern does not say it."""

    method: str
    scheme: Scheme
    swap: bool
    rows: int
    work: Work | None
    levels: Mapping[tuple[nn.Module, int], float] = field(default_factory=dict)

    def result(self, layer: PrunedLayer, watch: StatisticsObserver | None) -> PruneResult:
        reason = layer.reason
        if reason is None and watch is not None and not all(watch.rows):
            reason = "no calibration batch reached it"
        if reason is not None or layer.pattern is None:
            first = getattr(layer.module, matrices_of(layer.module)[0].parameter)  # a parametrization computes it
            entry = SparsifyEntry(
                layer.name, "kept", reason or "", (first.shape[0], first[0].numel()),
                bytes_before=_bytes(layer.module), also=layer.names[1:],
            )  # fmt: skip
            return PruneResult(layer, (entry,))
        pruned, entries = [], []
        for index, matrix in enumerate(matrices_of(layer.module)):
            weight, bias, entry = self._matrix(layer, index, matrix, watch)
            pruned.append((matrix, weight, bias))
            entries.append(entry)
        return self._placed(PruneResult(layer, tuple(entries), tuple(pruned)), watch)

    def _matrix(
        self, layer: PrunedLayer, index: int, matrix: Matrix, watch: StatisticsObserver | None
    ) -> tuple[Tensor, Tensor | None, SparsifyEntry]:
        module, pattern = layer.module, layer.pattern
        assert pattern is not None
        if (module, index) in self.levels:
            pattern = replace(pattern, sparsity=self.levels[module, index])  # type: ignore[type-var]
        weight, bias = matrix.weight(module), matrix.own_bias(module)
        name = f"{layer.name}.{matrix.label}" if matrix.label else layer.name
        statistics = None if watch is None else watch.statistics(index)
        if statistics is not None:
            check_rows(name, self.method, statistics)
            statistics = self.work.statistics(layer.name, index) if self.work is not None else statistics
        pruned = METHODS[self.method](weight.cpu(), pattern, statistics).to(weight.device)
        new_bias, shift = bias, None
        if statistics is not None and bias is not None:
            corrected = corrected_bias(weight.cpu(), pruned.cpu(), bias.cpu(), statistics)
            shift, new_bias = corrected - bias.cpu(), corrected.to(bias.device)
        if self.work is not None:
            self.work.prune(layer.name, matrix, pruned, new_bias)
        entry = SparsifyEntry(
            name,
            "pruned",
            "as asked for",
            (weight.shape[0], weight.shape[1]),
            sparsity=str(pattern),
            method=self.method,
            zeros=1 - int(torch.count_nonzero(pruned)) / pruned.numel(),
            error=output_error(weight.cpu(), pruned.cpu(), shift, statistics or _normal(weight.shape[1])),
            bytes_before=(weight.numel() + (0 if bias is None else bias.numel())) * 4,
            also=tuple(f"{other}.{matrix.label}" if matrix.label else other for other in layer.names[1:]),
        )
        return pruned, new_bias, entry

    def _placed(self, result: PruneResult, watch: StatisticsObserver | None) -> PruneResult:
        """With what takes the layer's place, or with why nothing does."""
        layer = result.layer
        stays = layer.stays or _stays(layer.module, self.scheme)
        if not self.swap:
            return result
        if stays is not None:
            return replace(result, entries=tuple(replace(e, reason=stays) for e in result.entries))
        try:
            candidate = self._candidate(result, watch)
        except RtaccelError as error:
            raise type(error)(
                f"sparsify_: {layer.name}: {error.op}", error.got, error.expected, error.next_step
            ) from error
        bytes_after = sum(t.numel() * t.element_size() for t in candidate.buffers())
        if not isinstance(candidate, SparseLinear):
            note = "quantized; its zeros are used where that is faster"
            entries = [replace(e, action="swapped", reason=note) for e in result.entries]
            entries[0] = replace(entries[0], bytes_before=_bytes(layer.module), bytes_after=bytes_after)
            entries[1:] = [replace(e, bytes_before=0) for e in entries[1:]]
            return replace(result, entries=tuple(entries), candidate=candidate)
        assert isinstance(layer.module, nn.Linear)
        device = layer.module.weight.device
        x = torch.randn(
            self.rows, layer.module.in_features, device=device, generator=torch.Generator(device).manual_seed(0)
        )
        timed = benchmark.Compared(*benchmark.compare(layer.module, candidate, x))
        form = "; ".join(note.split(" is computed ", 1)[-1] for note in candidate._pack().notes)
        reason = form or "as asked for"
        if not timed.steady:
            reason += f"; unsteady, half of the original's times spread over {timed.spread:.0%}"
        entry = replace(
            result.entries[0], action="swapped", reason=reason, bytes_after=bytes_after,
            us_before=timed.us_before, us_after=timed.us_after,
        )  # fmt: skip
        return replace(result, entries=(entry,), candidate=candidate)

    def _candidate(self, result: PruneResult, watch: StatisticsObserver | None) -> Candidate:
        module, pattern = result.layer.module, result.layer.pattern
        observer = watch.observer if watch is not None else None
        twin = copy.deepcopy(module)
        for matrix, weight, bias in result.pruned:
            matrix.write(twin, weight, bias)
        if isinstance(twin, nn.LSTM):
            return QuantLSTM.from_float(twin, self.scheme, observer)
        if isinstance(twin, nn.GRU):
            return QuantGRU.from_float(twin, self.scheme, observer)
        assert isinstance(twin, nn.Linear) and pattern is not None
        keep = pattern if isinstance(pattern, SemiStructured) else replace(pattern, sparsity=None)  # type: ignore[type-var]
        mask = result.pruned[0][1] != 0
        return SparseLinear.from_float(twin, self.scheme, observer, sparsity=keep, mask=mask)


def _stays(module: nn.Module, scheme: Scheme) -> str | None:
    """Why a pruned layer stays the torch layer that it is; None where it is swapped."""
    if isinstance(module, (nn.Conv1d, nn.Conv2d)) and module.weight[0, 0].numel() > 1:
        return f"stays an nn.{type(module).__name__}: more than one tap is computed dense, zeros or not"
    if isinstance(module, nn.Linear) or (isinstance(module, nn.RNNBase) and isinstance(scheme, W8A8)):
        return None
    return f"stays an nn.{type(module).__name__}: rt.compile uses its zeros where that is faster"


def _normal(width: int) -> InputStatistics:
    return InputStatistics.of_dense(torch.eye(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64), 0)


def _bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())
