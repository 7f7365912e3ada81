"""`prepare_qat_`: layers of a model train on with the numbers of a scheme, and are compiled without a change of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rtaccel.convert.frontend.batches import batches_of, call_with
from rtaccel.convert.frontend.checks import check_no_script, check_options
from rtaccel.convert.module_swap.eligibility import QUANTIZED, Filter, SwapSite, shape_of, swappable_layers
from rtaccel.convert.module_swap.name_patterns import unmatched
from rtaccel.convert.module_swap.placing import replace_modules
from rtaccel.convert.module_swap.swap_report import SwapEntry, SwapReport
from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.log import log
from rtaccel.core.scheme import W4A8, W4A16, W8A8, W8A16, Int8Activation, Scheme, SchemeLike, SchemeMap
from rtaccel.nn.qat.layers import FakeQuant, FakeQuantConv1d, FakeQuantConv2d, FakeQuantLinear
from rtaccel.nn.qat.recurrent import FakeQuantGRU, FakeQuantLSTM

OP = "prepare_qat_"
SCHEMES = (W8A8, W4A8, W8A16, W4A16)
FORMS: dict[type[nn.Module], type[FakeQuant]] = {
    nn.Linear: FakeQuantLinear,
    nn.Conv1d: FakeQuantConv1d,
    nn.Conv2d: FakeQuantConv2d,
    nn.LSTM: FakeQuantLSTM,
    nn.GRU: FakeQuantGRU,
}
"""What takes the place of what."""


def prepare_qat_(
    model: nn.Module,
    scheme: SchemeLike,
    filter_fn: Filter | None = None,
    calibration: Iterable[Any] | Tensor | None = None,
) -> SwapReport:
    """Puts fake quantization into layers of a model, in place, so that training goes on with the numbers of a scheme.

    nn.Linear, nn.Conv1d, nn.Conv2d, nn.LSTM and nn.GRU become `FakeQuantLinear` and so on. Their weights and inputs go through
    int8 or int4 and back in every call, and gradients go straight through the rounding. Parameters stay the very same
    tensors: an optimizer that has them goes on. The model stays one of plain modules with plain parameters, for `state_dict`,
    `deepcopy`, DistributedDataParallel and any training loop. `rt.compile` and `rt.stream` take the layers with the numbers they
    have, whatever scheme they are given for the rest; `rt.restore_` gives torch layers with the trained weights.

    scheme: W8A8, W4A8, W8A16 or W4A16, its name, or a dict from module-name pattern to scheme. A layer that no pattern fits is
        left as it is. Convolutions take W8A8 where the scheme is W4A8.
    filter_fn: (module, dotted name) -> whether to prepare it.
    calibration: model inputs as `quantize_` takes them, for static ranges of activations: the float model runs once over them, in
        eval mode. Without it ranges are dynamic.

    A static range is a new parameter, `range_factor` [2] of each layer: the range is what calibration showed, times its
    exponential. Give it to the optimizer (`model.parameters()` after this call), or leave it out and the range stays.

    Left as they are, with the reason in the report: layers that `quantize_` would not take (subclasses, hooks, parametrizations,
    shared weights, not float32), recurrent layers in W8A16 and W4A16, layers that calibration did not reach, and layers
    that are prepared already.

    Returns a report; the layers are "prepared" in it. An exception leaves the model as it was. Raises UnsupportedProblem for a
    model that is a layer itself and for other schemes; FormatError for a static scheme without calibration, for weights or
    calibration data that are not finite, and for rounding="gptq", which is for models that are not trained on.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018.

    Example:
        >>> import torch, rtaccel as rt
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
        >>> x, y = torch.randn(256, 8), torch.randn(256, 1)
        >>> report = rt.prepare_qat_(model, rt.W4A8(), calibration=[x])
        >>> optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        >>> for _ in range(20):
        ...     optimizer.zero_grad()
        ...     torch.nn.functional.mse_loss(model(x), y).backward()
        ...     _ = optimizer.step()
        >>> fast = rt.compile(model.eval(), (x[:1],))
        >>> report.prepared, bool(torch.allclose(fast(x), model(x), atol=0.05))
        (2, True)
    """
    _check(model)
    check_options(OP, filter_fn, None)
    schemes = SchemeMap(scheme)
    with _eval(model):
        sites = swappable_layers(model, schemes, filter_fn, nearest=True)
        for site in sites:
            _check_scheme(site, calibration is not None)
        notes = unmatched(OP, scheme, model)
        made = {
            site.names: FORMS[type(site.module)].of(site.module, _settled(site.scheme, calibration is not None))
            for site in sites
            if site.reason is None
        }
        for site in sites:
            if site.reason is None:
                _check_weights(site)
        originals = {site.names: site.module for site in sites if site.reason is None}
        replace_modules(model, list(made.items()))
        try:
            reached = _calibrated(model, made, calibration)
        except BaseException:
            replace_modules(model, list(originals.items()))
            raise
        replace_modules(model, [(names, module) for names, module in originals.items() if names not in reached])
    for names, layer in made.items():
        layer.training = originals[names].training
    report = SwapReport(tuple(_entry(site, made, reached) for site in sites), notes)
    log.info("prepare_qat_: %d layers prepared, %d left as they are", report.prepared, report.kept)
    return report


def _check(model: Any) -> None:
    check_no_script(OP, model)
    if not isinstance(model, nn.Module):
        raise UnsupportedProblem(OP, type(model).__name__, "an nn.Module", "Pass the model itself.")
    if isinstance(model, (*QUANTIZED, *QUANTIZED.values())):
        raise UnsupportedProblem(
            OP, f"a model that is itself a {type(model).__name__}",
            "a model that holds its layers, so that they can be replaced in it", "Put it into an nn.Sequential.",
        )  # fmt: skip


def _check_scheme(site: SwapSite, calibrated: bool) -> None:
    if site.reason is not None:
        return
    scheme, name = site.scheme, site.names[0]
    if not isinstance(scheme, SCHEMES):
        known = ", ".join(cls.name for cls in SCHEMES)
        raise UnsupportedProblem(OP, f"{scheme} for {name}", f"one of {known}", "Choose one, or filter this layer out.")
    if getattr(scheme, "rounding", "nearest") != "nearest":
        raise FormatError(
            OP, f"rounding={scheme.rounding!r} for {name}", "rounding='nearest': training finds the rounding",
            "Leave rounding out, or compile without training.",
        )  # fmt: skip
    if isinstance(scheme, Int8Activation) and scheme.activation == "static" and not calibrated:
        kind = type(scheme).__name__
        raise FormatError(
            OP, f"{kind}(activation='static') for {name} without calibration data",
            "calibration= with batches of real inputs", f"Pass some, or take {kind}(activation='dynamic').",
        )  # fmt: skip


def _check_weights(site: SwapSite) -> None:
    for name, parameter in site.module.named_parameters():
        if not torch.isfinite(parameter).all():
            raise FormatError(
                OP,
                f"{site.names[0]}.{name} with a NaN or infinity",
                "finite weights",
                "Repair or retrain the layer first.",
            )


def _settled(scheme: Scheme, calibrated: bool) -> Scheme:
    if isinstance(scheme, (W8A8, W4A8)) and scheme.activation is None:
        return replace(scheme, activation="static" if calibrated else "dynamic")
    return scheme


@contextmanager
def _eval(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, and each module in its own mode after."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def _calibrated(model: nn.Module, made: dict[tuple[str, ...], FakeQuant], calibration: Any) -> set[tuple[str, ...]]:
    """Runs the float model over the batches; the names of the layers that are ready to train."""
    if calibration is None:
        return set(made)
    for names, layer in made.items():
        layer.watch(names[0])
    reached = set()
    try:
        count = 0
        with torch.no_grad():
            for batch in batches_of(OP, calibration):
                call_with(model, batch, OP, count)
                count += 1
        if not count:
            raise FormatError(OP, "calibration without a batch", "at least one", "Pass batches of real inputs.")
    finally:
        reached = {names for names, layer in made.items() if layer.settle() or not layer.static}
    return reached


def _entry(site: SwapSite, made: dict[tuple[str, ...], FakeQuant], reached: set[tuple[str, ...]]) -> SwapEntry:
    layer = made.get(site.names)
    ready = site.names in reached
    reason = site.reason or ("trains with fake quantization" if ready else "no calibration batch reached it")
    if isinstance(site.module, FakeQuant):
        reason = "it is prepared already"
    return SwapEntry(
        fqn=site.names[0],
        action="prepared" if ready else "kept",
        reason=reason,
        scheme=str(site.scheme if layer is None else layer.scheme),
        shape=shape_of(site.module),
        bytes_before=sum(p.numel() * p.element_size() for p in site.module.parameters()),
        activation=getattr(layer.scheme, "activation", None) if ready and layer is not None else None,
        also=site.names[1:],
    )
