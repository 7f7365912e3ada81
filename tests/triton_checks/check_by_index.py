"""Stages that look for numbers, write by index or solve, beside torch itself: NaN, both zeros, indices outside, no solution."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rtaccel.backends import require
from rtaccel.core import settings
from rtaccel.core.errors import FormatError
from rtaccel.core.registry import impls, operator
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.fourier import contract as fourier
from rtaccel.kernels.order import contract as order
from rtaccel.kernels.put import contract as put
from rtaccel.kernels.scan import contract as scan
from rtaccel.kernels.solve import contract as solve
from rtaccel.kernels.table_row import contract as table_row

require("triton")
DEVICE = "cpu" if settings.triton_interpret() else "cuda"

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, at the inf and nan that are meant


def shaped(stage: Stage, *inputs: Tensor) -> tuple[Tensor, ...]:
    """A value of one step has no dimension for it."""
    return tuple(x.reshape(x.shape[0], *v.shape) for x, v in zip(inputs, stage.inputs, strict=True))


def computed(stage: Stage, *inputs: Tensor) -> tuple[Tensor, ...]:
    """By the Triton kernel that takes the stage; there is one alone."""
    inputs = shaped(stage, *inputs)
    problem = Problem.of(stage, inputs[0].shape[0], DEVICE)
    (impl,) = (impl for impl in impls("triton", stage.op) if impl.supports(problem) is None)
    return tuple(y.cpu() for y in impl.prepare(stage, problem)(*(x.to(DEVICE) for x in inputs)))


def generator() -> torch.Generator:
    seed = torch.seed() % 2**31
    print(f"seed {seed}")
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a graph that is replayed, where nobody looks before or after."""
    from rtaccel.kernels._general import triton_indices
    from rtaccel.kernels.solve.triton import solve as kernel
    from rtaccel.kernels.table_row.triton import rows

    monkeypatch.setattr(triton_indices, "can_look", lambda tensor: False)
    for module in (kernel, rows):
        monkeypatch.setattr(module, "can_look", lambda tensor: False)


@pytest.mark.parametrize("dtype", ["float32", "int64"])
@pytest.mark.parametrize(("n", "k"), [(7, 3), (40, 40), (300, 40)])
def test_order_is_that_of_torch(n: int, k: int, dtype: str) -> None:
    """The bits of what is selected: a zero keeps its sign and a NaN is one; the largest and least int64 are in place."""
    x = torch.randint(-3, 3, (2, 3, n), generator=generator()).float()
    x[:, 0, ::3], x[:, 0, 1::3] = -0.0, 0.0
    x[0, 1, 2], x[0, 1, 5], x[1, 2, 3] = float("nan"), float("-inf"), float("inf")
    if dtype == "int64":
        x = x.nan_to_num(0.0, 0.0, 0.0).long()
        x[0, 1, 2], x[0, 1, 5] = 2**63 - 1, -(2**63)
    for descending in (False, True):
        stage = order.make_stage((3, n), k, int(descending), dtype=dtype)
        values, indices = computed(stage, x)
        want = x.sort(dim=-1, descending=descending, stable=True)
        assert torch.equal(indices, want.indices[..., :k])
        number = values.view(torch.int32) if dtype == "float32" else values
        same = want.values[..., :k].contiguous()
        assert torch.equal(number, same.view(torch.int32) if dtype == "float32" else same)


def test_the_first_of_a_long_line() -> None:
    """Longer than what is counted, and than a tile; one element is the largest int64."""
    x = torch.randint(-(2**62), 2**62, (1, 1, 17000), generator=generator())
    x[0, 0, 16999] = 2**63 - 1
    stage = order.make_stage((1, 17000), 5, dtype="int64")
    values, indices = computed(stage, x)
    want = x.topk(5)
    assert torch.equal(values, want.values[0]) and torch.equal(indices, want.indices[0])


def test_a_line_of_equal_numbers_keeps_its_order() -> None:
    for k in (3, 50):
        _, indices = computed(order.make_stage((1, 50), k, 0), torch.full((1, 1, 50), float("nan")))
        assert indices.flatten().tolist() == list(range(k))


@pytest.mark.parametrize("kind", scan.KINDS)
def test_a_scan_goes_on_from_tile_to_tile(kind: str) -> None:
    """A line of several tiles, with a NaN in the last; what logcumsumexp has of infinities and of far smaller numbers."""
    n = 2 * 2048 + 40
    if settings.triton_interpret() and kind in ("max", "min", "logsumexp"):
        n = 300  # the interpreter takes such a scan element by element, and one tile holds it
    x = torch.randn(1, 2, n, generator=generator())
    if kind == "prod":
        x = 1 + x / 1000
    x[0, 0, n - 30] = float("nan")
    x[0, 1, :3] = torch.tensor([float("-inf"), -2000.0, 3.0])
    stage = scan.make_stage(kind, (2, n))
    (got,) = computed(stage, x)
    (want,) = operator("scan").reference(stage, x)
    assert operator("scan").tolerance(stage, x).within(got, want).all()
    assert got[0, 0, n - 30 :].isnan().all() and not got[0, 0, : n - 30].isnan().any()


@pytest.mark.parametrize("mode", ["add", "prod", "amax", "amin", "set"])
def test_a_nan_that_is_put_stays_where_it_is_put(mode: str) -> None:
    g = generator()
    stage = put.rows_stage(mode, 5, 3, 40)
    x, src = torch.randn(2, 5, 3, generator=g), torch.randn(2, 40, 3, generator=g)
    index = torch.randint(0, 4, (2, 1, 40), generator=g)
    index[0, 0, -1], src[0, -1, 1] = 2, float("nan")
    (got,) = computed(stage, x, index, src)
    given = shaped(stage, x, index, src)
    (want,) = operator("put").reference(stage, *given)
    assert operator("put").tolerance(stage, *given).within(got, want).all()
    assert got.isnan().sum() == 1 and got[0, 2, 1].isnan()
    assert torch.equal(got[:, 4], x[:, 4])


def test_an_index_to_write_to_is_looked_at() -> None:
    stage = put.rows_stage("add", 5, 3, 4)
    for bad in (-1, 5, 2**40):
        index = torch.tensor([[[0, bad, 1, 2]]])
        with pytest.raises(FormatError, match=f"index {bad}"):
            computed(stage, torch.zeros(1, 5, 3), index, torch.ones(1, 4, 3))


@pytest.mark.usefixtures("unseen")
def test_an_index_outside_makes_nan_of_what_it_might_have_reached() -> None:
    for stage, src in (
        (put.rows_stage("set", 5, 3, 4), torch.ones(2, 4, 3)),
        (next(c for c in operator("put").cases() if "overlapping-add" in c.id).stage, torch.ones(2, 5, 12)),
    ):
        x = torch.zeros(2, *stage.inputs[0].shape)
        index = torch.zeros(2, *stage.inputs[1].shape, dtype=torch.int64)
        index.view(2, -1)[0, 1] = 2**40
        (got,) = computed(stage, x, index, src)
        assert got[0].isnan().all() and got[1].isfinite().all()


@pytest.mark.usefixtures("unseen")
@pytest.mark.parametrize("mode", ["add", "prod", "amax", "amin", "set"])
def test_whole_numbers_by_index(mode: str) -> None:
    """Sums and products that wrap, the largest and the least number; where an index is outside, the least in its place alone."""
    g = generator()
    stage = put.rows_stage(mode, 5, 3, 40, "int64")
    x, src = (torch.randint(-(2**62), 2**62, (2, n, 3), generator=g) for n in (5, 40))
    x[0, 0, 0], src[0, 3, 1], src[1, 7, 2] = 2**63 - 1, -(2**63) + 1, 2**63 - 1
    index = torch.randint(0, 4, (2, 1, 40), generator=g)
    (got,) = computed(stage, x, index, src)
    (want,) = operator("put").reference(stage, *shaped(stage, x, index, src))
    assert torch.equal(got.view_as(want), want)
    index[1, 0, 5] = 5
    (lost,) = computed(stage, x, index, src)
    assert torch.equal(lost[0], got[0]) and (lost[1] == -(2**63)).all()
    picked = next(c for c in operator("take").cases() if c.id == "rows-int64-5x3-4").stage
    at = torch.tensor([[[1, 4, 0, 2]], [[3, 2**40, -1, 0]]])
    (y,) = computed(picked, x[:, :5], at)
    y = y.view(2, 4, 3)
    assert torch.equal(y[0], x[0, at[0, 0]]) and torch.equal(y[1, [0, 3]], x[1, [3, 0]])
    assert (y[1, 1:3] == -(2**63)).all()


@pytest.mark.parametrize("op", ["take", "put"])
def test_whole_numbers_look_at_indices(op: str) -> None:
    case = next(c for c in operator(op).cases() if c.id in ("rows-int64-5x3-4", "rows-add-int64-5x3-4"))
    inputs = list(case.make(1))
    inputs[1][0, ..., -1] = 5
    with pytest.raises(FormatError, match="index 5"):
        computed(case.stage, *inputs)


@pytest.mark.usefixtures("unseen")
def test_a_step_beyond_the_table_is_nan_in_a_replay() -> None:
    stage = table_row.make_stage(7, 300)
    count = torch.tensor([[0.0], [6.0], [7.0], [-1.0], [float("nan")], [3.0]])
    y, after = computed(stage, count)
    assert torch.equal(y[[0, 1, 5]], stage.tensors["table"][[0, 6, 3]]) and y[2:5].isnan().all()
    assert torch.equal(after[[0, 1, 2, 3, 5]], count[[0, 1, 2, 3, 5]] + 1)


def test_a_step_beyond_the_table_is_refused() -> None:
    for bad in (-1.0, 7.0, float("nan")):
        with pytest.raises(FormatError, match=r"a step of 0\.\.6"):
            computed(table_row.make_stage(7, 3), torch.tensor([[1.0], [bad]]))


SINGULAR: dict[str, Callable[[Tensor], None]] = {
    "solve": lambda a: a[1, :3].zero_(), "inverse": lambda a: a[1, :3].fill_(1.0), "cholesky": lambda a: a[1, :3].fill_(-1.0),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(SINGULAR))
def test_a_matrix_without_a_solution_is_refused(kind: str) -> None:
    stage = solve.make_stage(kind, 3, 2, count=2)
    case = next(c for c in operator("solve").cases() if c.id == f"{kind}-n3-3-x2")
    inputs = [case.make(1)[0], torch.randn(3, 6, 2, generator=generator())][: len(stage.inputs)]
    computed(stage, *inputs)
    SINGULAR[kind](inputs[0])
    with pytest.raises(FormatError, match="matrix 0 of sample 1"):
        computed(stage, *inputs)


@pytest.mark.usefixtures("unseen")
@pytest.mark.parametrize("kind", list(SINGULAR))
def test_in_a_replay_it_is_nan_and_alone(kind: str) -> None:
    stage = solve.make_stage(kind, 3, 2, count=2)
    case = next(c for c in operator("solve").cases() if c.id == f"{kind}-n3-3-x2")
    inputs = [case.make(1)[0], torch.randn(3, 6, 2, generator=generator())][: len(stage.inputs)]
    (before,) = computed(stage, *inputs)
    SINGULAR[kind](inputs[0])
    (got,) = computed(stage, *inputs)
    assert got[1, :3].isnan().all()
    got[1, :3] = before[1, :3]
    assert torch.equal(got, before)


def test_a_determinant_of_zero_is_none_to_refuse() -> None:
    a = torch.tensor([[[1.0, 2.0], [2.0, 4.0]]])
    (pivots,) = computed(solve.make_stage("pivots", 2), a)
    assert float(pivots.prod()) == 0.0


@pytest.mark.parametrize("n", [2048, 3000])
def test_a_long_transform_and_back(n: int) -> None:
    """In tiles there and back: what comes is what went, to some roundings of its size."""
    x = torch.randn(1, 1, n, generator=generator())
    (there,) = computed(fourier.make_stage("real", n, n // 2 + 1, 1), x)
    want = torch.fft.rfft(x[0].double())
    assert torch.allclose(there[..., : n // 2 + 1].double(), want.real, atol=1e-3)
    assert torch.allclose(there[..., n // 2 + 1 :].double(), want.imag, atol=1e-3)
    (back,) = computed(fourier.make_stage("to_real", n, n, 1, inverse=1), there)
    assert torch.allclose(back, x[0], atol=1e-4)


def test_what_carries_no_phase_is_a_plain_zero() -> None:
    for n in (64, 81, 4096):
        (y,) = computed(fourier.make_stage("real", n, n // 2 + 1, 1), torch.randn(1, 1, n, generator=generator()))
        imaginary = y[0, n // 2 + 1 :]
        alone = imaginary[[0, -1]] if n % 2 == 0 else imaginary[[0]]
        assert (alone.view(torch.int32) == 0).all()
