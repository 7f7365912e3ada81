"""Linear by thirds of x: every way in which weights lie, and x as exact as float32, whatever is in it.

As check_formats.py, in the interpreter and on a card: started by tests/gpu/test_triton_interpreter.py.
"""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from rtaccel.core import settings
from rtaccel.core.registry import impls, operator
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu.triton_thirds import thirds_of
from rtaccel.kernels.fused_linear import contract as fused
from rtaccel.kernels.linear import contract, contract_weights
from rtaccel.kernels.linear.triton import thirds_config
from rtaccel.kernels.linear.triton.mixed_config import KernelConfig
from rtaccel.kernels.linear.triton.thirds_config import Shape
from tests.triton_checks.check_formats import DEVICE, check, impl_of, nan_filled
from tests.triton_checks.support.exchanged import exchanged

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
__all__ = ["nan_filled"]


@pytest.fixture
def as_it_is() -> None:
    """For what asks which layers are taken."""


@pytest.fixture(autouse=True)
def small_layers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are taken, too, but where it is asked: what they would earn is another matter."""
    if "as_it_is" not in request.fixturenames:
        monkeypatch.setattr(thirds_config, "not_worth", lambda config, rows: None)


@pytest.mark.parametrize("few", [0, 2048])
@pytest.mark.parametrize("group", [32, 64, 96, 128, 160, 256])
def test_groups_of_int4(group: int, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of K of 32 to 128 numbers; one step and several; K that ends within a part; 16 and 32 outputs a program."""
    monkeypatch.setattr(thirds_config, "FEW_OUTPUTS", few)
    for k, n, rows in ((1, 1, 1), (group - 1, 33, 3), (4096, 20, 1), (4096 + 2 * group + 12, 9, 2)):
        stage = contract_weights.make_stage(k, n, "w4a16", "relu", group_size=group)
        check("linear", impl_of("linear", "triton_thirds"), stage, rows, 0, 5)


@pytest.mark.parametrize("lane", [2, 4])
@pytest.mark.parametrize("kind", ["w4a16", "w8a16"])
def test_the_order_within_a_fragment_is_a_matter_of_speed(
    lane: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thirds_config, "LANE", lane)
    for group in (32, 64) if kind == "w4a16" else (32,):
        check(
            "linear",
            impl_of("linear", "triton_thirds"),
            contract_weights.make_stage(300, 40, kind, group_size=group),
            2,
        )


@pytest.mark.parametrize(("k", "n", "rows"), [(1, 1, 1), (127, 17, 3), (2050, 40, 1), (4096, 33, 4), (300, 33, 8)])
def test_int8(k: int, n: int, rows: int) -> None:
    check("linear", impl_of("linear", "triton_thirds"), contract_weights.make_stage(k, n, "w8a16", "gelu"), rows, 0, 11)


@pytest.mark.parametrize("kind", ["w4a16", "w8a16"])
def test_what_follows_the_sums(kind: str) -> None:
    stage = fused.make_stage(300, 40, kind, "relu", residual=True)
    check("fused_linear", impl_of("fused_linear", "triton_thirds"), stage, 2, 1, 9)
    stage = fused.make_stage(300, 40, kind, "relu", out="int8")
    check("fused_linear", impl_of("fused_linear", "triton_thirds"), stage, 1, 3)


def test_shapes_of_steps() -> None:
    """A step is as long as registers allow, and shorter where K would be padded by more than a twentieth."""
    for group, k, rows, want in (
        (128, 4096, 1, (32, 32, 1)), (128, 4096, 4, (16, 16, 4)), (32, 4096, 1, (8, 128, 1)), (128, 11008, 1, (16, 16, 11)),
        (0, 4096, 1, (64, 32, 1)), (0, 4096, 8, (16, 16, 8)), (96, 4096, 1, (8, 128, 1)),
    ):  # fmt: skip
        config = KernelConfig(4096, k, "int4" if group else "int8", "float32", group=group)
        shape = Shape.of(config, rows)
        assert (shape.block_k, shape.batch, shape.steps) == want, (group, k, rows, shape)
        assert shape.columns >= k and not group % shape.part


@pytest.mark.parametrize("k", [40, 600])
@pytest.mark.parametrize("kind", ["w4a16", "w8a16"])
def test_numbers_of_every_size(kind: str, k: int) -> None:
    """Numbers of very different sizes side by side: sums are those of float64 to the bound of float32 sums of K products.

    A tensor core adds 16 products to a sum, and cuts each of the 17 off at 2^-23 of the largest, and the result. That is less
    than a unit of 2^-23 for each product and two for the sum. Most of the warps' chains are shorter than K. With x rounded to
    bfloat16 the sums of 40 products would be off by many times the bound.
    """
    stage = contract_weights.make_stage(k, 40, kind, group_size=64)
    x = torch.randn(3, k) * 2.0 ** torch.randint(-20, 20, (3, k))
    (y,) = impl_of("linear", "triton_thirds").prepare(stage, Problem.of(stage, 3, DEVICE))(x.to(DEVICE))
    weight, bias = weights_of(stage), stage.tensors["bias"].double()
    want, most = x.double() @ weight.T + bias, x.double().abs() @ weight.abs().T + bias.abs()
    bound = 2.0**-23 * (k * 18 / 16 + 4) * most
    assert ((y.cpu().double() - want).abs() <= bound).all()
    rounded = x.bfloat16().double() @ weight.T + bias
    assert k > 40 or ((rounded - want).abs() > 4 * bound).any()


def weights_of(stage: Stage) -> torch.Tensor:
    """float64 [N, K]."""
    low = contract.lower(stage)
    multiplier = low.get("multiplier", torch.ones(stage.outputs[0].width)).double()
    return contract_weights.dense_weight(stage, low).double() * multiplier[:, None]


@pytest.mark.parametrize("kind", ["w4a16", "w8a16"])
def test_what_is_not_finite(kind: str) -> None:
    """As torch has it: an infinity gives infinities, and NaN where a weight is 0; a NaN gives NaN; other rows stay finite, with
    the largest numbers, too."""
    k, n = 300, 40
    stage = contract_weights.make_stage(k, n, kind, group_size=64)
    x = torch.randn(8, k)
    x[1, k - 1], x[3, 0], x[4, 7], x[5, :] = float("nan"), float("-inf"), float("inf"), 1e30
    x[6, 3], x[7, 5] = 3.4e38, -3.4e38
    x[2, 9] = torch.tensor(0x7F800001, dtype=torch.int32).view(
        torch.float32
    )  # the upper half of its bits is an infinity's
    (y,) = impl_of("linear", "triton_thirds").prepare(stage, Problem.of(stage, 8, DEVICE))(x.to(DEVICE))
    (want,) = operator("linear").reference(stage, x)
    y = y.cpu()
    assert y[[1, 2]].isnan().all()
    for row in (3, 4):
        zero = weights_of(stage)[:, 0 if row == 3 else 7] == 0
        assert y[row][zero].isnan().all() and torch.equal(y[row][~zero], want[row][~zero])
    assert y[[0, 5]].isfinite().all()
    assert torch.equal(y[[6, 7]].isnan(), want[[6, 7]].isnan())


@triton.jit
def _thirds_kernel(x_ptr, y_ptr, COUNT: tl.constexpr, ASM: tl.constexpr):
    at = tl.arange(0, COUNT)
    x = tl.load(x_ptr + at)
    a0, b0, a1, b1, a2, b2 = thirds_of(x, -x, ASM)
    tl.store(y_ptr + at, a0.to(tl.float32))
    tl.store(y_ptr + COUNT + at, a1.to(tl.float32))
    tl.store(y_ptr + 2 * COUNT + at, a2.to(tl.float32))
    tl.store(y_ptr + 3 * COUNT + at, b0.to(tl.float32) + b1.to(tl.float32) + b2.to(tl.float32))


def test_thirds_are_bfloat16_numbers_whose_sum_is_x() -> None:
    count = 1024
    x = torch.randn(count) * 2.0 ** torch.randint(-100, 120, (count,))
    x[:4] = torch.tensor([3.4028234e38, 1.0, -0.0, 2.0**-126])
    y = torch.empty(4, count, device=DEVICE)
    _thirds_kernel[(1,)](x.to(DEVICE), y, count, not settings.triton_interpret())
    y = y.cpu()
    assert torch.equal(y[:3], y[:3].bfloat16().float())
    assert torch.equal(y[0] + (y[1] + y[2]), x) and torch.equal(y[3], -x)
    assert (y[0].abs() <= x.abs()).all()


def test_other_weights_in_the_memory_that_is_read() -> None:
    """As `swap` of a graph does it. The cases of the contract are too small for this kernel."""
    for kind, k in (("w4a16", 300), ("w8a16", 256)):
        x = torch.randn(2, k).to(DEVICE)
        stage = contract_weights.make_stage(k, 40, kind)
        assert exchanged(impl_of("linear", "triton_thirds"), stage, (x,), DEVICE) == "exchanged"


def test_what_is_not_taken() -> None:
    for kind, group, rows, word in (
        ("w4a16", 128, 9, "M <= 8"), ("w4a16", 48, 1, "32 divides"), ("bfloat16", 32, 1, "bfloat16"),
        ("w4a8-static", 32, 1, "float32"),
    ):  # fmt: skip
        refused = impl_of("linear", "triton_thirds").supports(
            Problem.of(contract_weights.make_stage(4096, 64, kind, group_size=group), rows)
        )
        assert word in str(refused), (kind, group, rows, refused)


@pytest.mark.usefixtures("as_it_is")
def test_which_layers_are_taken() -> None:
    """Where what else there is for few rows is computed to take longer."""
    taken, gemv, wide = "triton_thirds", "triton_gemv_float", "triton_wide"
    for kind, group, k, n, rows, name in (
        ("w4a16", 128, 4096, 4096, 1, taken), ("w4a16", 32, 4096, 4096, 1, taken), ("w8a16", 32, 4096, 4096, 1, taken),
        ("w4a16", 128, 2048, 2048, 1, taken), ("w4a16", 128, 4096, 4096, 4, taken), ("w4a16", 128, 4096, 4096, 8, wide),
        ("w8a16", 32, 4096, 4096, 8, taken), ("w4a16", 128, 1024, 1024, 1, gemv), ("w8a16", 32, 512, 512, 2, gemv),
        ("w4a16", 48, 4096, 4096, 1, gemv), ("w4a16", 128, 4096, 11008, 8, wide), ("w4a16", 128, 4096, 4096, 9, wide),
    ):  # fmt: skip
        problem = Problem.of(contract_weights.make_stage(k, n, kind, group_size=group), rows)
        able = [i for i in impls("triton", "linear") if i.supports(problem) is None]
        assert able[0].name == name, (kind, group, k, n, rows, [i.name for i in able])
