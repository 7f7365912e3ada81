"""rtaccel: machine-learning inference inside a microsecond budget.

Names are loaded when first used, so `import rtaccel` costs next to nothing and brings in no GPU library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtaccel.core.lazy import attributes

__version__ = "0.1.0"

_HOME = {
    "quantize_": "rtaccel.convert.module_swap.swap",
    "prepare_qat_": "rtaccel.convert.module_swap.prepare_qat",
    "restore_": "rtaccel.convert.module_swap.swap",
    "load_quantized_": "rtaccel.convert.module_swap.load_quantized",
    "from_onnx": "rtaccel.convert.onnx.importer",
    "to_onnx": "rtaccel.deploy.onnx.export",
    "SwapReport": "rtaccel.convert.module_swap.swap",
    "sparsify_": "rtaccel.convert.pruning.sparsify",
    "SparsifyReport": "rtaccel.convert.pruning.sparsify",
    "keep_zeros": "rtaccel.convert.pruning.keep_zeros",
    "compile": "rtaccel.runtime.compiler",
    "CompiledModel": "rtaccel.runtime.compiled",
    "DynamicModel": "rtaccel.runtime.dynamic",
    "GuardedModel": "rtaccel.runtime.guarded",
    "stream": "rtaccel.runtime.stream",
    "StatefulModel": "rtaccel.runtime.stateful.model",
    "StreamModel": "rtaccel.runtime.stream",
    "raw_kernel": "rtaccel.nn.raw_kernel",
    "save": "rtaccel.deploy.save",
    "load": "rtaccel.deploy.load",
    "LoadedModel": "rtaccel.deploy.loaded_model",
    "fit_budget": "rtaccel.search.fit_budget",
    "Fit": "rtaccel.search.fit",
    "Relative": "rtaccel.search.metric",
    "EarlyExit": "rtaccel.search.cascade.early_exit",
    "Cascade": "rtaccel.search.cascade.cascade",
    "Anytime": "rtaccel.search.cascade.anytime",
    "Exit": "rtaccel.search.cascade.exits",
    "Latest": "rtaccel.realtime.latest",
    "Loop": "rtaccel.realtime.loop",
    "StreamBatcher": "rtaccel.serve.batcher",
    "BatchWorkers": "rtaccel.serve.workers",
    "split": "rtaccel.serve.split.split",
    "Hedged": "rtaccel.serve.hedge.hedged",
    "Cut": "rtaccel.serve.split.cut",
    "Link": "rtaccel.serve.split.link",
    "MachineProfile": "rtaccel.serve.split.machine_profile",
    "Latency": "rtaccel.measure.latency",
    "Budget": "rtaccel.measure.budget",
    "Float32": "rtaccel.core.scheme",
    "BFloat16": "rtaccel.core.scheme",
    "Float8": "rtaccel.core.scheme",
    "W8A8": "rtaccel.core.scheme",
    "W8A16": "rtaccel.core.scheme",
    "W4A8": "rtaccel.core.scheme",
    "W4A16": "rtaccel.core.scheme",
    "LowRank": "rtaccel.core.layer_forms",
    "Pruned": "rtaccel.core.layer_forms",
    "Unstructured": "rtaccel.core.sparsity",
    "BlockSparse": "rtaccel.core.sparsity",
    "SemiStructured": "rtaccel.core.sparsity",
    "RtaccelError": "rtaccel.core.errors",
    "UnsupportedProblem": "rtaccel.core.errors",
    "ShapeError": "rtaccel.core.errors",
    "FormatError": "rtaccel.core.errors",
    "BackendUnavailable": "rtaccel.core.errors",
    "BudgetExceeded": "rtaccel.core.errors",
    "FallbackWarning": "rtaccel.core.errors",
}
"""Public name -> module that defines it."""

_ROOMS = ("measure", "nn", "online", "realtime")
"""Packages reached as attributes; `measure` is also a function (the package is callable)."""

__all__ = [
    "W4A8",
    "W4A16",
    "W8A8",
    "W8A16",
    "Anytime",
    "BFloat16",
    "BackendUnavailable",
    "BatchWorkers",
    "BlockSparse",
    "Budget",
    "BudgetExceeded",
    "Cascade",
    "CompiledModel",
    "Cut",
    "DynamicModel",
    "EarlyExit",
    "Exit",
    "FallbackWarning",
    "Fit",
    "Float8",
    "Float32",
    "FormatError",
    "GuardedModel",
    "Hedged",
    "Latency",
    "Latest",
    "Link",
    "LoadedModel",
    "Loop",
    "LowRank",
    "MachineProfile",
    "Pruned",
    "Relative",
    "RtaccelError",
    "SemiStructured",
    "ShapeError",
    "SparsifyReport",
    "StatefulModel",
    "StreamBatcher",
    "StreamModel",
    "SwapReport",
    "Unstructured",
    "UnsupportedProblem",
    "compile",
    "fit_budget",
    "from_onnx",
    "keep_zeros",
    "load",
    "load_quantized_",
    "measure",
    "nn",
    "online",
    "prepare_qat_",
    "quantize_",
    "raw_kernel",
    "realtime",
    "restore_",
    "save",
    "sparsify_",
    "split",
    "stream",
    "to_onnx",
]
"""Written out: type checkers read it, and it says what is public."""

if TYPE_CHECKING:
    from rtaccel import nn, online, realtime
    from rtaccel.convert.module_swap.load_quantized import load_quantized_
    from rtaccel.convert.module_swap.prepare_qat import prepare_qat_
    from rtaccel.convert.module_swap.swap import SwapReport, quantize_, restore_
    from rtaccel.convert.onnx.importer import from_onnx
    from rtaccel.convert.pruning.keep_zeros import keep_zeros
    from rtaccel.convert.pruning.sparsify import SparsifyReport, sparsify_
    from rtaccel.core.errors import (
        BackendUnavailable,
        BudgetExceeded,
        FallbackWarning,
        FormatError,
        RtaccelError,
        ShapeError,
        UnsupportedProblem,
    )
    from rtaccel.core.layer_forms import LowRank, Pruned
    from rtaccel.core.scheme import W4A8, W4A16, W8A8, W8A16, BFloat16, Float8, Float32
    from rtaccel.core.sparsity import BlockSparse, SemiStructured, Unstructured
    from rtaccel.deploy.load import load
    from rtaccel.deploy.loaded_model import LoadedModel
    from rtaccel.deploy.onnx.export import to_onnx
    from rtaccel.deploy.save import save
    from rtaccel.measure.budget import Budget
    from rtaccel.measure.latency import Latency, measure
    from rtaccel.nn.raw_kernel import raw_kernel
    from rtaccel.realtime.latest import Latest
    from rtaccel.realtime.loop import Loop
    from rtaccel.runtime.compiled import CompiledModel
    from rtaccel.runtime.compiler import compile
    from rtaccel.runtime.dynamic import DynamicModel
    from rtaccel.runtime.guarded import GuardedModel
    from rtaccel.runtime.stateful.model import StatefulModel
    from rtaccel.runtime.stream import StreamModel, stream
    from rtaccel.search.cascade.anytime import Anytime
    from rtaccel.search.cascade.cascade import Cascade
    from rtaccel.search.cascade.early_exit import EarlyExit
    from rtaccel.search.cascade.exits import Exit
    from rtaccel.search.fit import Fit
    from rtaccel.search.fit_budget import fit_budget
    from rtaccel.search.metric import Relative
    from rtaccel.serve.batcher import StreamBatcher
    from rtaccel.serve.hedge.hedged import Hedged
    from rtaccel.serve.split.cut import Cut
    from rtaccel.serve.split.link import Link
    from rtaccel.serve.split.machine_profile import MachineProfile
    from rtaccel.serve.split.split import split
    from rtaccel.serve.workers import BatchWorkers


if not TYPE_CHECKING:  # a type checker is to see what is imported above, and to refuse every other name
    __getattr__ = attributes(__name__, _HOME, _ROOMS)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_ROOMS])
