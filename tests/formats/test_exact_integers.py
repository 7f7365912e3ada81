"""Integer sums are the same bits on every instruction set, over every M 0-8, N 0-40, K 0-130.

With multiplier 1 and offset 0 the float32 output is the sum itself: below 2^24 float32 holds it exactly.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess

import numpy as np
import pytest
import torch

import rtaccel._native as native
from rtaccel.backends.cpu import isas
from rtaccel.core.registry import impls
from rtaccel.core.settings import CPU_ISA
from rtaccel.core.stage import GraphIO, Problem, QParams, Stage, Value
from rtaccel.kernels._core.cpu import build
from tests import turns
from tests.support.processes.run import PYTHON

KERNELS = [impl.name for impl in impls("cpu", "linear")]
CANARY = -12345.678


def stage_of(weight: torch.Tensor, zero_point: int) -> Stage:
    n, k = weight.shape
    return Stage(
        "linear",
        "exact",
        (Value("x", k, "int8", QParams(1.0, zero_point)),),
        (Value("y", n),),
        {"weight": weight, "weight_scale": torch.ones(n)},
    )


def require(kernel: str) -> None:
    attrs = {"weight_dtype": "int8"}
    reason = native.reject("linear", kernel, attrs)
    if reason:
        pytest.skip(reason)


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_small_size(kernel: str) -> None:
    require(kernel)
    rng = np.random.default_rng()
    checked = 0
    for k in range(131):
        x = rng.integers(-128, 128, (8, k), dtype=np.int8)
        weight = rng.integers(-127, 128, (40, k), dtype=np.int8)
        zero_point = int(rng.integers(-128, 128))
        # int64 by way of float64, whose 53 bits hold every sum here.
        sums = (x.astype(np.float64) - zero_point) @ weight.astype(np.float64).T
        rows = torch.from_numpy(x)
        for n in range(41):
            stage = stage_of(torch.from_numpy(weight[:n].copy()), zero_point)
            plan = build([(stage, kernel)], [GraphIO.matrix(stage.inputs[0])], [GraphIO.matrix(stage.outputs[0])])
            for m in range(9):
                memory = torch.full((m * n + 16,), CANARY)
                assert plan.run((rows[:m],), memory[: m * n].view(m, n))
                got = memory.numpy()
                assert (got[: m * n].reshape(m, n) == sums[:m, :n]).all(), f"M={m} N={n} K={k}"
                assert (got[m * n :] == np.float32(CANARY)).all(), f"wrote past the end: M={m} N={n} K={k}"
                checked += 1
    assert checked == 9 * 41 * 131


@pytest.mark.parametrize("kernel", KERNELS)
def test_many_rows(kernel: str) -> None:
    """Up to 70 rows as the steps of one sample, so that a kernel sees them all at once and not in the plan's blocks."""
    require(kernel)
    rng = np.random.default_rng()
    sizes = ((1, 1300), (5, 300), (63, 79), (64, 64), (65, 33), (130, 130), (192, 48), (700, 17), (1300, 1))
    for k, n in sizes:
        weight = rng.integers(-127, 128, (n, k), dtype=np.int8)
        zero_point = int(rng.integers(-128, 128))
        for m in (4, 5, 12, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 70):
            x = rng.integers(-128, 128, (1, m, k), dtype=np.int8)
            sums = (x[0].astype(np.float64) - zero_point) @ weight.astype(np.float64).T
            stage = Stage(
                "linear",
                "exact",
                (Value("x", k, "int8", QParams(1.0, zero_point), m),),
                (Value("y", n, steps=m),),
                {"weight": torch.from_numpy(weight), "weight_scale": torch.ones(n)},
            )
            plan = build([(stage, kernel)], [GraphIO.matrix(stage.inputs[0])], [GraphIO.matrix(stage.outputs[0])])
            memory = torch.full((m * n + 16,), CANARY)
            assert plan.run((torch.from_numpy(x),), memory[: m * n].view(1, m, n))
            got = memory.numpy()
            assert (got[: m * n].reshape(m, n) == sums).all(), f"M={m} N={n} K={k}"
            assert (got[m * n :] == np.float32(CANARY)).all(), f"wrote past the end: M={m} N={n} K={k}"


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("rows", [3, 20])
@pytest.mark.parametrize(("x_value", "w_value"), [(127, 127), (-128, 127), (127, -127), (-128, -127)])
def test_extremes_do_not_saturate(kernel: str, rows: int, x_value: int, w_value: int) -> None:
    require(kernel)
    k, n = 130, 37
    stage = stage_of(torch.full((n, k), w_value, dtype=torch.int8), 0)
    plan = build([(stage, kernel)], [GraphIO.matrix(stage.inputs[0])], [GraphIO.matrix(stage.outputs[0])])
    y = plan.call((torch.full((rows, k), x_value, dtype=torch.int8),))
    assert (y == float(k * x_value * w_value)).all()


def test_chains_agree_on_every_instruction_set() -> None:
    """A whole int8 chain with transcendental activations between: identical float32 results, bit for bit."""
    torch.manual_seed(3)
    linears = [k for k in KERNELS if not native.reject("linear", k, {"weight_dtype": "int8"})]
    quantizes = [i.name for i in impls("cpu", "quantize") if not native.reject("quantize", i.name, {})]
    if len(linears) < 2:
        pytest.skip("only one instruction set on this CPU")
    widths = (37, 130, 64, 9, 41)
    activations = ("gelu", "elu", "silu", "none")
    results = []
    x = torch.randn(33, widths[0]) * 2
    weights = [torch.randint(-127, 128, (n, k), dtype=torch.int8) for k, n in itertools.pairwise(widths)]
    for quantize, name in itertools.product(quantizes, linears):
        value = Value("x", widths[0])
        current = Value("q0", widths[0], "int8", QParams(0.05, -3))
        stages = [(Stage("quantize", "q", (value,), (current,)), quantize)]
        for i, (k, n) in enumerate(itertools.pairwise(widths)):
            last = i == len(widths) - 2
            out = Value("y", n) if last else Value(f"q{i + 1}", n, "int8", QParams(0.02, 5))
            tensors = {"weight": weights[i], "weight_scale": torch.full((n,), 0.3 / k)}
            attrs = {"activation": activations[i], "activation_parameter": 1.0}
            stages.append((Stage("linear", f"l{i}", (current,), (out,), tensors, attrs), name))
            current = out
        results.append(build(stages, [GraphIO.matrix(value)], [GraphIO.matrix(current)]).call((x,)))
    for other in results[1:]:
        assert torch.equal(results[0], other)


def test_dynamic_rows_inside_a_chain_equal_the_reference() -> None:
    """row_scale as a value of the plan itself lies strided, unlike one passed in."""
    from rtaccel.core.registry import operator

    k, n, rows = 40, 23, 35
    x, q, s, y = Value("x", k), Value("q", k, "int8"), Value("s", 1), Value("y", n)
    tensors = {"weight": torch.randint(-127, 128, (n, k), dtype=torch.int8), "weight_scale": torch.rand(n) + 0.1}
    quantize = Stage("quantize", "q", (x,), (q, s))
    linear = Stage("linear", "l", (q, s), (y,), tensors)
    data = torch.randn(rows, k) * torch.rand(rows, 1) * 10
    want = operator("linear").reference(linear, *operator("quantize").reference(quantize, data))[0]
    quantize_kernel = next(i.name for i in impls("cpu", "quantize") if i.supports(Problem.of(quantize, rows)) is None)
    for impl in impls("cpu", "linear"):
        if impl.supports(Problem.of(linear, rows)) is None:
            plan = build([(quantize, quantize_kernel), (linear, impl.name)], [GraphIO.matrix(x)], [GraphIO.matrix(y)])
            assert torch.equal(plan.call((data,)), want), impl.name


EXACT_CASES = """
import hashlib, json, os, sys
import torch
import rtaccel._native as native
from rtaccel.core.registry import impls, operators
from rtaccel.core.settings import CPU_ISA
from rtaccel.core.stage import Problem

torch.set_num_threads(1)
found = {"isa": native.isa(), "kernels": {}, "rejected": {}, "digests": {}}
if found["isa"] != os.environ[CPU_ISA]:  # this CPU does not have it
    sys.exit(print(json.dumps(found)))
for name, op in sorted(operators().items()):
    if not impls("cpu", name):  # of GPUs alone
        continue
    for index, case in enumerate(op.cases()):
        if {"takes_mark", "gives_mark", "ticks"} & case.stage.attrs.keys():  # of graphs of a GPU
            continue
        inputs = case.make(index)
        tolerance = op.tolerance(case.stage, *inputs)
        if tolerance.steps or torch.as_tensor(tolerance.atol).any():
            continue
        problem = Problem.of(case.stage, rows=inputs[0].shape[0])
        reasons = {impl: impl.supports(problem) for impl in impls("cpu", name)}
        found["rejected"] |= {f"{name} {impl.name}": r for impl, r in reasons.items() if r is not None}
        impl = max((i for i, r in reasons.items() if r is None), key=lambda i: i.rank)
        found["kernels"].setdefault(name, []).append(impl.name)
        results = impl.prepare(case.stage, problem)(*inputs)
        if found["isa"] == "portable":  # whose bits the others are held to
            for got, want in zip(results, op.reference(case.stage, *inputs)):
                assert torch.equal(got.nan_to_num(7.0), want.nan_to_num(7.0)), (name, impl.name, case.id)
        bits = b"".join(r.nan_to_num(7.0).reshape(-1).view(torch.uint8).numpy().tobytes() for r in results)
        found["digests"][f"{name} {case.id}"] = hashlib.sha256(bits).hexdigest()
print(json.dumps(found))
"""


def test_the_exact_conformance_cases_under_every_instruction_set() -> None:
    """In a process of its own for each, the kernel that would be chosen: the bits of portable code, which are those of the
    reference, and no kernel that the set leaves out. Sets between the first and the best take turns."""
    known = isas()[: isas().index(native.isa()) + 1]  # the best one here, and what comes before it
    runs = {
        isa: subprocess.Popen(
            [*PYTHON, "-c", EXACT_CASES], env={**os.environ, CPU_ISA: isa}, stdout=subprocess.PIPE, text=True
        )
        for isa in dict.fromkeys([known[0], *turns.todays(known[1:-1], 3), known[-1]])
    }
    found = {}
    for isa, process in runs.items():
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, isa
        result = json.loads(output)
        if result["isa"] == isa:  # else this CPU does not have it
            found[isa] = result
    assert "portable" in found
    digests = found["portable"]["digests"]
    assert {name.split()[0] for name in digests} >= {"linear", "quantize"}
    for isa, result in found.items():
        assert result["digests"] == digests, isa
        used = {kernel.rsplit("_", 1)[1] for kernels in result["kernels"].values() for kernel in kernels}
        assert isa in used or isa == "avx512bf16", f"{isa}: {used}"
        assert not used & ({"avx512", "avx512vnni"} if isa == "avxvnni" else {"avxvnni"} if "512" in isa else set())
        ruled_out = [r for r in result["rejected"].values() if r.startswith(f"{CPU_ISA}={isa} rules out")]
        assert ruled_out or isa != "portable" or len(found) == 1
