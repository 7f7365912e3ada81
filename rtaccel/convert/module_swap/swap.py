"""`quantize_` and `restore_`: layers of a model swapped in place, where that makes them faster, and back again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from rtaccel.convert.frontend.checks import check_model, check_options
from rtaccel.convert.module_swap.candidate import draft, quantized_form
from rtaccel.convert.module_swap.eligibility import (
    QUANTIZED,
    Filter,
    Quantized,
    Swappable,
    SwapSite,
    is_conv,
    shape_of,
    swappable_layers,
    swapped_before,
)
from rtaccel.convert.module_swap.name_patterns import unmatched
from rtaccel.convert.module_swap.placing import put, replace_modules
from rtaccel.convert.module_swap.swap_report import SwapEntry, SwapReport
from rtaccel.convert.module_swap.whole_load import unguard_loads
from rtaccel.convert.quantization.input_observer import InputObserver, watch_inputs
from rtaccel.convert.quantization.rounding import rounds
from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.log import log
from rtaccel.core.progress import counted
from rtaccel.core.scheme import Int8Activation, SchemeLike, SchemeMap
from rtaccel.formats.int8 import require_finite
from rtaccel.nn.params.formats import params_of
from rtaccel.nn.qat.layers import FakeQuant

__all__ = ["SwapEntry", "SwapReport", "quantize_", "restore_"]


def quantize_(
    model: nn.Module,
    scheme: SchemeLike,
    filter_fn: Filter | None = None,
    calibration: Iterable[Any] | Tensor | None = None,
    *,
    force: bool = False,
    keep_original: bool = True,
    rows: int | None = None,
) -> SwapReport:
    """Swaps the layers of a model that have a form in `rtaccel.nn` for it, in place, where that is faster.

    nn.Linear, nn.Conv1d, nn.Conv2d, nn.LSTM and nn.GRU have one: `QuantLinear`, `QuantConv1d` and so on.

    scheme: a scheme, its name, or a dict from module-name pattern to scheme. A layer that no pattern fits is kept, and
        so is one whose scheme is Float32.
    filter_fn: (module, dotted name) -> whether to swap it.
    calibration: model inputs for static ranges: an iterable of batches, each a tensor (float32 [batch, ...]), a tuple of
        arguments or a dict of keyword arguments; a tensor alone is one batch. The float model runs once over them; only ranges
        and a few rows are kept.
    force: swap even a layer that is measured to be slower; the report says so.
    keep_original: keep the float layers for `restore_`. They take the memory of the float weights, and are in no state
        dict. With False they are gone.
    rows: batch size to measure each layer with; None takes that of its first calibration batch, or 1.

    Each candidate is timed against the layer it stands for, call by call in turn, and is swapped in only where its
    median is smaller by more than 5 %; the report says where the machine was too busy for a good figure. What was swapped,
    and how, is in the model's state_dict(): `load_quantized_` makes the same of a float model elsewhere.

    Kept as they are, with the reason in the report: subclasses of these; layers with hooks, parametrizations or shared
    weights; layers of nn.MultiheadAttention and of nn.TransformerEncoderLayer, which read the weight itself; layers that are
    not float32; layers in training mode; layers not executed during calibration; convolutions without calibration, whose
    input size is not known. One used under several names is swapped once.

    An exception leaves the model as it was. Raises UnsupportedProblem for a model in training mode, for one that is an
    nn.Linear itself and for schemes without a layer; FormatError for weights or calibration data that are not finite,
    naming the layer, and for W8A8(activation="static") without calibration.

    Example:
        >>> import torch, rtaccel as rt
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4)).eval()
        >>> report = rt.quantize_(model, rt.W8A8(), calibration=[torch.randn(32, 64)], force=True)
        >>> report.swapped, rt.restore_(model)
        (2, 2)
    """
    _check(model)
    check_options("quantize_", filter_fn, rows, force, keep_original)
    layers = swappable_layers(model, SchemeMap(scheme), filter_fn)
    for layer in layers:
        _check_scheme(layer, calibration is not None)
        if layer.reason is None:  # before a layer is fed what another one made of them
            for name, tensor in layer.module.named_parameters():
                require_finite(tensor.detach(), "quantize_", f"{layer.names[0]}.{name}")
    notes = (*unmatched("quantize_", scheme, model), *swapped_before("quantize_", model, not layers))
    watched = {
        layer.module: InputObserver(layer.names[0], _rounded_width(layer))
        for layer in layers
        if layer.reason is None and _watched(layer)
    }
    if watched and calibration is not None:
        watch_inputs(model, watched, calibration)
    else:
        watched = {}
    candidates = []
    with counted("quantize_", len(layers), "layers") as advance:
        for layer in layers:
            candidates.append(draft(layer, watched.get(layer.module), rows, force))
            advance()
    put(model, [(d.names, d.module, d.candidate) for d in candidates if d.candidate is not None], keep_original)
    report = SwapReport(tuple(d.entry for d in candidates), notes)
    for entry in report:
        log.debug("quantize_: %s %s: %s", entry.fqn, entry.action, entry.reason)
    log.info("quantize_: %d layers swapped, %d kept", report.swapped, report.kept)
    return report


def restore_(model: nn.Module) -> int:
    """Puts the original layers back, as they were when they were swapped (and moved since, if the model was moved), and the
    original weights into layers that `sparsify_` pruned without swapping. Layers that `prepare_qat_` prepared become
    torch layers again, with the weights that training gave them.

    Returns how many. Raises UnsupportedProblem, with nothing changed, naming a layer whose original was not kept.
    A quantized layer that `quantize_` did not put there is left alone.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedProblem("restore_", type(model).__name__, "an nn.Module", "Pass the model itself.")
    names: dict[int, list[str]] = {}
    found: dict[int, Quantized] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, Quantized) and module._swapped and name:
            names.setdefault(id(module), []).append(name)
            found[id(module)] = module
    originals: list[tuple[Quantized, Swappable]] = []
    for key, module in found.items():
        if module._original is None:
            raise UnsupportedProblem(
                "restore_",
                f"{names[key][0]}, swapped with keep_original=False or by load_quantized_",
                "a layer whose original was kept",
                "Load the float model again, or quantize with keep_original=True.",
            )
        originals.append((module, cast(Swappable, module._original)))
    replace_modules(model, [(tuple(names[id(q)]), original) for q, original in originals])
    for module, original in originals:
        original.train(module.training)
    unguard_loads(model)
    return len(originals) + _unprune(model) + _unprepare(model)


def _unprepare(model: nn.Module) -> int:
    names: dict[int, list[str]] = {}
    found: dict[int, FakeQuant] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, FakeQuant) and name:
            names.setdefault(id(module), []).append(name)
            found[id(module)] = module
    replace_modules(model, [(tuple(names[key]), layer.plain()) for key, layer in found.items()])
    return len(found)


def _unprune(model: nn.Module) -> int:
    count = 0
    for module in model.modules():
        kept = module.__dict__.pop("_unpruned", None)
        if kept is not None:
            with torch.no_grad():
                for name, before in kept.items():
                    module.get_parameter(name).copy_(before)
            count += 1
    return count


# -- checks --------------------------------------------------------------------------------------------------------


def _check(model: Any) -> None:
    if isinstance(model, nn.Module) and isinstance(model, (*QUANTIZED, *QUANTIZED.values())):
        raise UnsupportedProblem(
            "quantize_",
            f"a model that is itself a {type(model).__name__}",
            "a model that holds its layers, so that they can be replaced in it",
            f"Use rt.nn.{quantized_form(model).__name__}.from_float(layer, scheme, calibration).",
        )
    check_model("quantize_", model)


def _check_scheme(layer: SwapSite, calibrated: bool) -> None:
    if layer.reason is not None:
        return
    params_of("quantize_", layer.scheme)
    if getattr(layer.scheme, "balance", None) is not None:
        raise UnsupportedProblem(
            "quantize_", f"balance={layer.scheme.balance!r} for {layer.names[0]}", "balance=None",  # type: ignore[attr-defined]
            "Compile the model with rt.compile, which sees what lies between two layers.",
        )  # fmt: skip
    if rounds(layer.scheme) and not calibrated:
        raise FormatError(
            "quantize_", f"rounding={layer.scheme.rounding!r} for {layer.names[0]} without calibration data",  # type: ignore[attr-defined]
            "calibration= with batches of real inputs", "Pass some, or take rounding='nearest'.",
        )  # fmt: skip
    if isinstance(layer.scheme, Int8Activation) and layer.scheme.activation == "static" and not calibrated:
        kind = type(layer.scheme).__name__
        raise FormatError(
            "quantize_",
            f"{kind}(activation='static') for {layer.names[0]} without calibration data",
            "calibration= with batches of real inputs",
            f"Pass some, or take {kind}(activation='dynamic').",
        )


def _watched(layer: SwapSite) -> bool:
    """Convolutions are watched for the size of their input, too."""
    return _wants_ranges(layer) or is_conv(layer.module) or rounds(layer.scheme)


def _rounded_width(layer: SwapSite) -> int | None:
    """K, where the weights are rounded for their inputs."""
    wanted = isinstance(layer.module, nn.Linear) and rounds(layer.scheme)
    return shape_of(layer.module)[1] if wanted else None


def _wants_ranges(layer: SwapSite) -> bool:
    return isinstance(layer.scheme, Int8Activation) and layer.scheme.activation != "dynamic"
