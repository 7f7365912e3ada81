"""One stage by itself: its reference and every kernel of this machine that takes it, and the questions that all are asked."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.registry import impls, operator
from rtaccel.core.stage import Problem, Stage
from tests.support.networks.int8_layers import same

Run = Callable[..., tuple[Tensor, ...]]
NAN, INF = float("nan"), float("inf")


def kernels(stage: Stage, rows: int = 1) -> dict[str, Run]:
    """Name -> call, of every implementation in C++ and in plain torch that takes the stage."""
    problem = Problem.of(stage, rows)
    found = [i for backend in ("cpu", "portable") for i in impls(backend, stage.op) if i.supports(problem) is None]
    return {i.name: i.prepare(stage, problem) for i in found}


def runs(stage: Stage, rows: int = 1) -> dict[str, Run]:
    """`kernels` and the contract's reference."""
    return {"reference": partial(operator(stage.op).reference, stage), **kernels(stage, rows)}


def check_same(stage: Stage, inputs: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    """The reference and every kernel give these bits, and types and shapes."""
    for name, run in runs(stage, inputs[0].shape[0]).items():
        got = run(*inputs)
        assert len(got) == len(wanted), name
        for a, b in zip(got, wanted):
            assert same(a, b), f"{name}: {a} instead of {b}"


def check_samples_apart(stage: Stage, inputs: tuple[Tensor, ...], sample: int = 1) -> None:
    """Other numbers in one sample change what comes out of it, and no bit of any other."""
    others = [i for i in range(inputs[0].shape[0]) if i != sample]
    for name, run in runs(stage, inputs[0].shape[0]).items():
        before = run(*inputs)
        for value in (NAN, INF, 3e38, 0.25):
            changed = tuple(t.clone() for t in inputs)
            for t in changed:
                t[sample] = torch.full_like(t[sample], value) if t.is_floating_point() else ~t[sample]
            after = run(*changed)
            assert not all(same(a[sample], b[sample]) for a, b in zip(before, after)), f"{name} with {value}"
            for a, b in zip(before, after):
                assert same(a[others], b[others]), f"{name} with {value}"


def check_no_samples(stage: Stage) -> None:
    """Nothing comes of nothing, in the right shapes and types."""
    inputs = [torch.zeros(0, *v.shape, dtype=getattr(torch, v.dtype)) for v in stage.inputs]
    for name, run in runs(stage).items():
        got = run(*inputs)
        assert [(t.shape, t.dtype) for t in got] == [((0, *v.shape), getattr(torch, v.dtype)) for v in stage.outputs], (
            name
        )


def operators_of(fast: rt.CompiledModel) -> list[str]:
    """The operators of a compiled model, none of which may fall back to PyTorch."""
    lines = fast.explain_lines(measure=False)
    assert all(line.kernel != "torch" for line in lines), lines
    return [line.what.split("(")[0] for line in lines]


def compiled_both(
    model: nn.Module, example: tuple[Tensor, ...], scheme: Any = "float32", **options: Any
) -> tuple[rt.CompiledModel, rt.CompiledModel, list[str]]:
    """The model in C++ and in plain torch, and the operators, which are the same."""
    native, plain = (
        rt.compile(model.eval(), example, scheme, backend=b, verify=False, **options) for b in ("cpu", "portable")
    )
    assert operators_of(native) == operators_of(plain)
    assert all(line.kernel.startswith("cpu_") for line in native.explain_lines(measure=False))
    return native, plain, operators_of(native)


def matrix_runs(stage: Stage, rows: int = 1, reference: bool = True) -> dict[str, Run]:
    """`runs` of tensors of any shape with the elements of the inputs, such as matrices of which a sample has one."""

    def of_any(run: Run) -> Run:
        return lambda *given: run(
            *(t.reshape(-1, *v.shape).contiguous() for t, v in zip(given, stage.inputs, strict=True))
        )

    return {name: of_any(run) for name, run in (runs if reference else kernels)(stage, rows).items()}


def check_instruction_sets(stage: Stage, inputs: tuple[Tensor, ...]) -> None:
    """Kernels in C++ of every instruction set that this machine has give the same bits."""
    called = matrix_runs(stage, inputs[0].shape[0], reference=False)
    found = {name: run(*inputs) for name, run in called.items() if name.startswith("cpu_")}
    first = found["cpu_portable"]
    for name, got in found.items():
        assert all(same(a, b) for a, b in zip(got, first, strict=True)), name
