"""A model that torch.export cannot capture: it runs as it is, layer by layer, with the layers that can be swapped swapped."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rtaccel.convert.frontend.torchscript import title_of
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.log import log
from rtaccel.core.scheme import SchemeLike, SchemeMap
from rtaccel.core.traits import FALLBACK
from rtaccel.plan.explain import Line, table
from rtaccel.runtime.inputs import bind_run, copy_out
from rtaccel.runtime.schedule.nesting import outs_in_order

if TYPE_CHECKING:
    from rtaccel.convert.module_swap.swap_report import SwapReport


class UncapturedModel(nn.Module):
    """Same calls as a CompiledModel. Python runs between the layers, so it is far slower than one native call;
    `explain()` says why it was not captured. The model it came from is copied, not changed."""

    def __init__(
        self,
        model: nn.Module,
        reason: str,
        scheme: SchemeLike,
        calibration: Any,
        example: tuple[Any, ...] | None = None,
    ) -> None:
        """example: arguments of one call, with which swaps are tried; without, the first calibration batch, or else the
        first call. A layer with whose swap the model does not run is kept, and the report says so.

        Raises UnsupportedProblem for a model that cannot be copied, and what `quantize_` raises.
        """
        super().__init__()
        self.model = _copied(model)
        self.reason = reason
        self.report: SwapReport | None = None
        self._untried = False
        if not SchemeMap(scheme).exact:
            first, calibration = _first(calibration)
            self._swap(scheme, calibration)
            trial = example if example is not None else first
            if self._untried and trial is not None:
                self._try(*_arguments(trial))
        self.eval()

    def _swap(self, scheme: SchemeLike, calibration: Any) -> None:
        """On a copy, as calibration runs it and a model may count its calls; then its layers are taken over."""
        from rtaccel.convert.module_swap.eligibility import QUANTIZED
        from rtaccel.convert.module_swap.placing import replace_modules
        from rtaccel.convert.module_swap.swap import quantize_

        if isinstance(self.model, (*QUANTIZED, torch.jit.ScriptModule)):
            own = "is itself a layer" if isinstance(self.model, tuple(QUANTIZED)) else "has its layers in a graph"
            self.reason += f"; it {own}, and stays float32"
            return
        work = _copied(self.model)
        self.report = quantize_(work, scheme, calibration=calibration)
        swapped = {e.fqn: (e.fqn, *e.also) for e in self.report if e.action == "swapped"}
        changes = []
        for name, names in swapped.items():
            candidate = work.get_submodule(name)
            candidate.__dict__["_original"] = self.model.get_submodule(name)
            changes.append((names, candidate))
        replace_modules(self.model, changes)
        self._untried = bool(swapped)

    def _try(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Puts float layers back where the model does not run without them. A model that does not run with its float layers
        either is left as it is: its arguments are wrong, and the call says so."""
        assert self.report is not None
        swapped = {e.fqn: (e.fqn, *e.also) for e in self.report if e.action == "swapped"}
        self._untried = False
        if self._fails(swapped, args, kwargs) is None:
            return
        if self._fails({}, args, kwargs) is not None:
            self._untried = True
            return
        working: dict[str, tuple[str, ...]] = {}
        notes: dict[str, str] = {}
        for name, names in swapped.items():
            error = self._fails({**working, name: names}, args, kwargs)
            if error is None:
                working[name] = names
            else:
                notes[name] = f"the model does not run with it swapped: {_words(error)}"
        _put_back(self.model, {name: swapped[name] for name in notes})
        entries = (
            replace(e, action="kept", reason=notes[e.fqn], bytes_after=None) if e.fqn in notes else e
            for e in self.report
        )
        self.report = replace(self.report, entries=tuple(entries))
        log.info(
            "uncaptured model: %d layers kept, with which it does not run swapped: %s", len(notes), ", ".join(notes)
        )

    def _fails(
        self, swapped: Mapping[str, tuple[str, ...]], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Exception | None:
        """What a copy of the model raises with these layers swapped, and no other."""
        assert self.report is not None
        trial = _copied(self.model)
        others = {e.fqn: (e.fqn, *e.also) for e in self.report if e.action == "swapped" and e.fqn not in swapped}
        _put_back(trial, others)
        try:
            with torch.no_grad():
                trial(*args, **kwargs)
        except Exception as error:
            return error
        return None

    def forward(self, *inputs: Any, **named: Any) -> Any:
        if self._untried:
            self._try(inputs, named)
        with torch.no_grad():
            return self.model(*inputs, **named)

    def run(self, *inputs: Any, out: Any) -> Any:
        """Computes, then copies into `out`. Raises ShapeError, with `out` untouched, for an `out` that does not fit."""
        leaves, spec = pytree.tree_flatten(self(*inputs))
        copy_out(leaves, outs_in_order("run", out, spec))
        return out

    def bind(self, *inputs: Any, out: Any) -> Callable[[], None]:
        return bind_run(self.run, inputs, out)

    def prefault(self) -> int:
        """Nothing here is the plan's own: 0 bytes."""
        return 0

    def seal(self, lock: bool = False) -> UncapturedModel:
        raise UnsupportedProblem("seal", "a model that was not captured", "native stages only", self.reason)

    @property
    def weight_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (*self.model.parameters(), *self.model.buffers()))

    def explain(self, verbose: bool = True, measure: bool = True) -> str:
        """Why the model was not captured. measure: as of a captured model, whose stages are timed; here are none."""
        title = title_of(self.model)
        lines = [Line(title, "the whole model, as it is", FALLBACK, None, None, (self.reason,))]
        swapped = f"\n\n{self.report}" if self.report is not None else ""
        return f"{title}: not captured, {self.weight_bytes} B of weights\n\n{table(lines, verbose)}{swapped}"


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise UnsupportedProblem(
            "compile", f"a {type(model).__name__} that cannot be copied: {_words(error)}", "one that copy.deepcopy takes",
            "Keep no tensors with a history, locks or handles in it.",
        ) from error  # fmt: skip


def _first(calibration: Any) -> tuple[Any, Any]:
    """The first batch, or None, and an iterable that still gives it."""
    if not isinstance(calibration, Iterable) or isinstance(calibration, (Mapping, str)):
        return None, calibration
    if isinstance(calibration, Tensor) or hasattr(calibration, "__array__"):
        return calibration, calibration
    batches = iter(calibration)
    try:
        first = next(batches, None)
    except Exception:  # quantize_ says what is wrong with it
        return None, calibration
    return first, calibration if first is None else itertools.chain([first], batches)


def _arguments(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    from rtaccel.convert.frontend.batches import tensors

    batch = tensors("compile", batch)
    if isinstance(batch, Mapping):
        return (), dict(batch)
    return (tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)), {}


def _put_back(model: nn.Module, layers: Mapping[str, tuple[str, ...]]) -> None:
    """The float layers in the place of swapped ones."""
    from rtaccel.convert.module_swap.placing import replace_modules

    replace_modules(model, [(names, model.get_submodule(name).__dict__["_original"]) for name, names in layers.items()])


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
