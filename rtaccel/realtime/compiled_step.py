"""Compiled models and streams as steps of the native loop."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

from rtaccel import _native as native
from rtaccel.core.errors import RtaccelError, ShapeError, UnsupportedProblem
from rtaccel.core.lead_dims import of_rank
from rtaccel.realtime.steps import MOST, Port, unknown
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.inputs import names_of


def input_names(model: CompiledModel) -> list[str]:
    """Of its tensors, in order."""
    return names_of(model._argument_names, model._program.arguments)


def output_names(model: CompiledModel) -> list[str]:
    """As `rt.save` names them."""
    count = len(model._program.outputs)
    return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]


def compiled_step(op: str, model: Any, ports: list[Port]) -> tuple[Any, list[Port], list[Any]]:
    """(native step, what comes out, native plans). Raises UnsupportedProblem for what is no native plan, ShapeError for slots
    that do not fit."""
    if not isinstance(model, CompiledModel):
        raise unknown(op, model)
    executor, arguments = model._executor, model._program.arguments
    if executor.direct is None or not executor.steps[0].native:
        raise UnsupportedProblem(
            op,
            f"{model._options.title} with {len(executor.steps)} steps on {model._options.device}",
            "one native plan on the CPU: a loop has a thread without the GIL",
            "See explain(); pass a Python callable that calls the model where the guarantee is not needed.",
        )
    if len(arguments) > MOST or len(model._program.outputs) > MOST:
        raise UnsupportedProblem(op, f"{model._options.title} of so many tensors", f"up to {MOST}", "Join some.")
    given = " and ".join(f"{dtype}{list(shape)}" for shape, dtype in ports)
    if len(ports) != len(arguments):
        raise ShapeError(
            op, f"{given} for {model._options.title}", f"{len(arguments)} tensors", f"It takes {input_names(model)}."
        )
    plan = executor.steps[0].plan
    inputs = tuple(
        torch.zeros(of_rank(shape, len(argument.shape)), dtype=getattr(torch, dtype), device="cpu")
        for (shape, dtype), argument in zip(ports, arguments, strict=True)
    )
    past = plan.save_state() if plan.state_bytes else None
    args, _ = pytree.tree_unflatten(list(inputs), model._program.in_spec)
    try:
        results = pytree.tree_leaves(model(*args))
    except RtaccelError as error:
        raise ShapeError(
            op,
            f"{given} for {model._options.title}",
            "what the model takes",
            f"Make the slots fit; the model says: {error}",
        ) from error
    finally:
        if past is not None:
            plan.load_state(past)
    outs = [(tuple(y.shape), str(y.dtype).removeprefix("torch.")) for y in results]
    return native.plan_step(plan, inputs), outs, [plan]
