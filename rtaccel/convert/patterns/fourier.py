"""The rule for Fourier transforms along the last dimension."""

from __future__ import annotations

from math import prod

from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.complex.transform import TARGET
from rtaccel.convert.frontend.iteration import iteration
from rtaccel.convert.frontend.layout import Atom, View
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.patterns.rules import Call, Refused, rule
from rtaccel.kernels.fourier import plan


@rule(TARGET)
def _transform(call: Call) -> OpNode:
    kind, n = call["kind"], call["n"]
    if plan.split(n, kind != "complex") is None:
        raise Refused(f"transforms {n} numbers, which has too large a factor")
    view = call.elements(call["x"])
    if view.has_batch(len(view.dims) - 1):
        raise Refused("layout: its samples are what is transformed")
    if layout.run_of(view, -1) is None:
        view = call.build.packed(view)
    run = layout.run_of(view, -1) or Atom(1, 1)
    window = call["window"]
    constant = None if window is None else call.constant(window)
    if window is not None and constant is None:
        raise Refused("has a window that is computed")
    made = call.shape[-1]
    result = call.build._dense_like(View("", (*call.leading([view], call.shape)[:-1], (Atom(made, 1),))))
    found = iteration(View("", result.dims[:-1]), [View(view.base, view.dims[:-1], view.offset)])
    if found is None:
        raise Refused("layout: its lines have no strides")
    attrs = {
        "kind": kind, "n": n, "wanted": call["wanted"], "inverse": int(call["inverse"]), "scale": call["scale"],
        "dims": (*found.dims, run.size), "place": (*found.places[0], 0 if run.size == 1 else run.stride),
    }  # fmt: skip
    tensors = {} if constant is None else {"window": constant.detach().float().reshape(-1)}
    return call.op_node("fourier", [view.base], result, prod(found.dims) * made, made, attrs=attrs, tensors=tensors)
