"""Every Triton kernel compiled for eight architectures without a GPU, and held to the budget file."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from rtaccel.core import settings
from rtaccel.core.stage import Problem

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed (pip install 'rtaccel[gpu]')", allow_module_level=True)
if settings.triton_interpret():
    pytest.skip("TRITON_INTERPRET=1: kernels are interpreted, there is nothing to compile", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget

from rtaccel.core.errors import UnsupportedProblem
from rtaccel.kernels._common.activations import ACTIVATIONS, HOMOGENEOUS
from rtaccel.kernels._gpu.triton_aot import (
    ARCHITECTURES,
    Allowed,
    Footprint,
    compile_for,
    compile_kernel,
    specializations,
    violations,
)
from rtaccel.kernels._gpu.triton_spec import FUSED, INT8_MMA, Specialisation
from rtaccel.kernels._persistent.card import SHARED_BYTES
from rtaccel.kernels.conv.triton import window
from rtaccel.kernels.linear import contract
from rtaccel.kernels.linear.triton import dot, gemv, mixed_config, thirds_config
from rtaccel.kernels.linear.triton.w8a8 import Operands
from rtaccel.kernels.sparse_linear.triton import gemv_float
from rtaccel.kernels.sparse_linear.triton.rows import KernelConfig, problem_of_size
from rtaccel.runtime.gpu.ahead import kernels_of
from tests import turns
from tests.support import kept
from tests.triton_checks import budgets
from tests.triton_checks.support import launches

pytestmark = pytest.mark.usefixtures("kept_triton_cache")

SPECIALISATIONS = [d.spec for d in launches.declared()]  # made once for all files of tests


@functools.cache
def compiled(name: str, capability: int) -> Footprint:
    """Compiled once, for all that is asserted of it."""
    return kept.footprint(next(s for s in SPECIALISATIONS if s.name == name), capability)


def todays() -> Iterator[Any]:
    """Every form for sm_90 and one of the other architectures, another each day; a sixth of those a day, within six weeks all.
    Of what is slow to compile, a third of the forms, for one architecture each; an eleventh of those a day, so that each form has
    each architecture in time. They are counted apart: that their number is another each day moves no other's turn.
    `python tests/triton_checks/write_budgets.py --check` compiles the whole, in some minutes."""
    others = [c for c in ARCHITECTURES if c != 90]
    for index, spec in enumerate(SPECIALISATIONS):
        first = turns.DAY + index
        chosen = (90, others[first % len(others)])
        if spec.slow:
            turn, rest = divmod(first, 3)
            chosen = () if rest else (ARCHITECTURES[turn % len(ARCHITECTURES)],)
        for capability in chosen:
            days = pytest.mark.turns(20 if spec.slow else 10)
            yield pytest.param(spec, capability, id=f"{spec.name}-sm_{capability}", marks=days)


@pytest.mark.parametrize(("spec", "capability"), list(todays()))
def test_compiles_within_its_budget(spec: Specialisation, capability: int) -> None:
    if not budgets.known(capability):
        pytest.skip(f"the assembler of triton {triton.__version__} does not know sm_{capability}")
    if capability < spec.oldest:
        with pytest.raises(UnsupportedProblem, match="not supported in this architecture"):
            compile_for(spec, capability)
        return
    assert violations(spec, capability, compiled(spec.name, capability), budgets.allowed(spec.name, capability)) == []


def test_the_budget_file_holds_every_kernel_and_no_other() -> None:
    names = {spec.name for spec in SPECIALISATIONS}
    for version, kernels in budgets.read().items():
        assert set(kernels) == names, version


def test_w8a8_is_on_the_tensor_cores_of_every_card() -> None:
    name = "linear_dot_M16_N1024_K1024_dynamic_gelu_float32"
    for capability in (80, 90, 100, 120):
        assert compiled(name, capability).count(INT8_MMA)


AUTOENCODER = "640-128-128-128-128-8-128-128-128-128-640"


@pytest.mark.turns(4)
@pytest.mark.parametrize("kind", [f"mlp_chain_{AUTOENCODER}_relu", f"mlp_persistent_{AUTOENCODER}_int4"])
def test_the_autoencoder_fits_one_multiprocessor(kind: str) -> None:
    """In int8 as one launch, in int4 with all its weights in registers: 128 a thread is what 16 warps may have."""
    (name,) = [s.name for s in SPECIALISATIONS if s.name.startswith(kind)]
    found = compiled(name, 90)
    assert found.spills == 0
    recorded = [numbers for kernels in budgets.read().values() for numbers in kernels[name].values()]
    assert len(recorded) > len(ARCHITECTURES)
    assert max(registers for registers, *_ in [*recorded, [found.registers]]) <= 128


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("kernel", "capability"), [(dot, 100), (gemv, 80)], ids=["dot", "gemv"])
def test_every_activation_compiles_without_stack(kernel: Any, activation: str, capability: int) -> None:
    stage = contract.make_stage(256, 64, "dynamic", activation, 0.1)
    found = kept.footprint(kernel.specialize(Problem.of(stage, 2, "cuda")), capability)
    assert (found.stack_bytes, found.local_bytes, found.spills) == (0, 0, 0)
    if activation in HOMOGENEOUS:  # their result must equal the reference's bits, so no product may fuse with a sum
        assert found.count(FUSED) == 0


def test_every_operator_with_a_triton_kernel_declares_forms_to_check() -> None:
    names = [spec.name for spec in specializations()]
    assert len(set(names)) == len(names)
    for start in (
        "linear_dot", "linear_gemv", "linear_int4_gemv", "linear_mixed", "linear_blas", "fused_gemv", "mlp_chain",
        "mlp_persistent", "mlp_partition", "mlp_persistent_partition", "null_persistent", "quantize_static", "quantize_dynamic",
        "sparse_gemv", "sparse_dot", "sparse_semi", "conv_window", "conv_persistent", "lstm_stack", "lstm_both",
        "expression", "strided_expression", "reduce", "softmax", "norm",
        "assemble", "pool", "matmul", "linear_float32",
    ):  # fmt: skip
        assert any(name.startswith(start) for name in names), start


class FakeCard:
    """As much of a triton driver as compiling needs: what the card is, nothing that runs on it."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


@pytest.fixture
def h100(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not set_active: its counterpart reset_active looks for a real card.
    monkeypatch.setattr(triton.runtime.driver, "_active", FakeCard())


@pytest.mark.parametrize("scheme", ["static", "dynamic"])
@pytest.mark.parametrize("kernel", [dot, gemv], ids=["dot", "gemv"])
def test_a_launch_compiles_once_for_every_batch_and_what_was_checked(kernel: Any, scheme: str, h100: None) -> None:
    """No batch size and no zero point compiles anew, and the launch's code is the code that the budget was held to."""
    stage = contract.make_stage(64, 32, scheme, "relu", out="int8")
    problem = Problem.of(stage, 1)
    operands, spec = Operands.of(stage, problem), kernel.specialize(problem)
    word = torch.int32 if kernel is gemv else torch.int8
    compiled = {}
    for rows in (1, 2, 3, 16, 48):
        for y_zero_point in (-128, 0, 1, 11):
            arguments = {
                "x_ptr": torch.zeros(rows, 64, dtype=torch.int8).view(word), "weight_ptr": operands.weight.view(word),
                "y_ptr": torch.zeros(rows, 32, dtype=torch.int8), "multiplier_ptr": operands.multiplier,
                "offset_ptr": operands.offset, "compensation_ptr": operands.compensation, "rows": rows, "parameter": 0.0,
                "y_inv_scale": 1.0, "y_zero_point": y_zero_point,
            }  # fmt: skip
            if scheme == "dynamic":
                arguments["row_scale_ptr"] = torch.ones(rows, 1)
            code = spec.kernel.warmup(grid=(1,), **arguments, **spec.keywords)
            compiled[code.hash] = code
    assert len(compiled) == 1
    assert kept.read(code.asm["cubin"], code.metadata.shared) == kept.footprint(spec, 90)
    assert not code.metadata.enable_fp_fusion


def test_a_launch_takes_a_constant_of_named_fields(h100: None) -> None:
    """Sizes of a window are one constant of the launch, and the code is what the budget was held to."""
    spec = next(window.specializations())
    types = {"*i8": torch.int8, "*fp32": torch.float32, "*i32": torch.int32}
    numbers = {"i32": 3, "fp32": 1.0}
    arguments = {
        name: numbers[kind] if kind in numbers else torch.zeros(64, dtype=types[kind])
        for name, kind in spec.signature.items()
    }
    code = spec.kernel.warmup(grid=(1,), **arguments, **spec.keywords)
    assert kept.read(code.asm["cubin"], code.metadata.shared) == compiled(spec.name, 90)


ALLOWED = Allowed(32, 32, 1, 50)
GOOD = Footprint(32, 0, 0, 32, {"IDP.4A.S8.S8": 8, "LDG.E.128": 4, "BAR.SYNC.DEFER_BLOCKING": 1, "FMUL": 1, "FADD": 1})


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (replace(GOOD, registers=200), "200 registers"),
        (replace(GOOD, stack_bytes=64), "64 stack bytes"),
        (replace(GOOD, local_bytes=8), "8 local bytes"),
        (replace(GOOD, shared_bytes=50_000), "50000 shared bytes"),
        (replace(GOOD, instructions={**GOOD.instructions, "LDL.64": 2, "STL": 1}), "3 spills"),
        (replace(GOOD, instructions={**GOOD.instructions, "BAR.SYNC": 1}), "2 barriers"),
        (replace(GOOD, instructions={**GOOD.instructions, "MOV": 40}), "55 instructions"),
        (replace(GOOD, instructions={**GOOD.instructions, "FFMA2": 1}), "1 FFMA instructions"),
        (replace(GOOD, instructions={"LDG.E.128": 4}), "no IDP"),
        (replace(GOOD, instructions={"IDP.4A.S8.S8": 8, "LDG.E": 16}), "no LDG"),
    ],
)  # fmt: skip
def test_each_kind_of_violation_is_reported(found: Footprint, said: str) -> None:
    spec = next(gemv.specializations())
    assert violations(spec, 90, GOOD, ALLOWED) == []
    broken = violations(spec, 90, found, ALLOWED)
    assert len(broken) == 1
    assert broken[0].startswith(f"{spec.name} on sm_90: ")
    assert said in broken[0]


def test_a_planted_budget_is_reported() -> None:
    spec = next(gemv.specializations())
    allowed = budgets.allowed(spec.name, 90)
    assert allowed is not None
    found = compiled(spec.name, 90)
    tight = replace(allowed, registers=found.registers - 9)
    where = f"{spec.name} on sm_90"
    assert violations(spec, 90, found, tight) == [
        f"{where}: {found.registers} registers, at most {found.registers - 1}"
    ]
    assert violations(spec.with_requirements("IMMA"), 90, found, allowed) == [f"{where}: no IMMA instruction"]
    (unknown,) = violations(spec, 90, found, None)
    assert "not in the budget file" in unknown


def test_sparse_layers_are_built_ahead() -> None:
    """The kernels of a model with zeros are those that it binds on a card, whose choice needs no card."""
    model = torch.nn.Sequential(torch.nn.Linear(2048, 2048)).eval()
    with torch.no_grad():
        model[0].weight.view(32, 64, 32, 64)[:, :, 2:] = 0
    found = kernels_of(model, (torch.randn(1, 2048),), "w8a8", [torch.randn(8, 2048)])
    assert any(spec.name.startswith("sparse_gemv_M1_int8_64x64") for spec in found.values())


@pytest.mark.parametrize("capability", [80, 89, 120])
@pytest.mark.parametrize(
    ("x", "group"), [("float32", 64), ("float32", 128), ("float32", 256), ("float32", 1024), ("int8", 512)]
)
def test_many_rows_of_int4_fit_every_card(x: str, group: int, capability: int) -> None:
    """Tiles on their way are in shared memory, of which the smallest cards have 99 KiB; nothing spills for it."""
    config = mixed_config.KernelConfig(4096, 4096, "int4", x, group=group, scaled=x == "int8")
    for rows in (32, 64):
        found = compile_for(mixed_config.specialize(config, rows), capability)
        assert found.shared_bytes <= SHARED_BYTES[capability] << 10
        assert (found.stack_bytes, found.local_bytes, found.spills) == (0, 0, 0)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("group", "rows"), [(32, 1), (32, 2), (128, 4), (0, 2), (0, 8)])
def test_few_rows_by_thirds_fit_the_registers(group: int, rows: int, capability: int) -> None:
    """With all that an epilogue may have. A program of 16 warps has 128 registers for a thread."""
    weight = "int4" if group else "int8"
    config = mixed_config.KernelConfig(4096, 11008, weight, "float32", "gelu", group=group, residual=True)
    found = compile_for(thirds_config.specialize(config, rows), capability)
    assert found.shared_bytes <= SHARED_BYTES[capability] << 10
    assert (found.stack_bytes, found.local_bytes, found.spills) == (0, 0, 0)


@pytest.mark.parametrize(("inputs", "of", "gathered"), [(16_384, "global", 4), (4096, "shared", 16)])
def test_what_is_said_of_neighbors_joins_no_loads(inputs: int, of: str, gathered: int) -> None:
    """Numbers of x whose places memory says are loaded one by one: the hint in their offsets is for the layout alone. Up to 8192
    the program holds x in shared memory."""
    config = KernelConfig.of(problem_of_size(inputs, 256, "float32", "window", 1), 1, 1)
    code = compile_kernel(gemv_float.specialize(config, 1), 90).asm["ptx"]
    loop = max(code.split("\n$L__BB"), key=lambda part: part.count("fma.rn"))
    assert loop.count(f"ld.{of}.b32") >= gathered, loop
