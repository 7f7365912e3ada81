"""Models in float16 and bfloat16: computed in float32, nearer to float64 than the model's own numbers, and in its dtypes."""

from __future__ import annotations

import copy
import random
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.errors import FallbackWarning

HALVES = (torch.float16, torch.bfloat16)
F = nn.functional


class Recurrent(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.rnn = random.choice((nn.LSTM, nn.GRU))(width, 12, batch_first=True)
        self.head = nn.Linear(12, width)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(x)
        return self.head(y)


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.out, self.norm = nn.Linear(width, 3 * width), nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, -1))
        return x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Explicit(nn.Module):
    """Casts as models of language have them: a norm and a softmax in float32, a mask of the least number."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.score = nn.Parameter(torch.rand(width) + 0.5), nn.Linear(width, 7)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.float32)
        normed = self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).to(x.dtype)
        scores = self.score(normed)
        masked = scores.masked_fill(torch.arange(7) > 5, torch.finfo(scores.dtype).min)
        shares = torch.softmax(masked, -1, dtype=torch.float32).to(x.dtype)
        return torch.cat((x, shares), -1)[..., : x.shape[-1]]


class Convolution(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(width, width, 3, padding=1), nn.BatchNorm1d(width)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.norm(self.conv(x.mT))).mT


class Dense(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.register_buffer("shift", torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.up(x))) * 0.5 + self.shift


PARTS = (Recurrent, Attention, Explicit, Convolution, Dense)


class Model(nn.Module):
    """Some of the parts, and results of every kind: as it lies, turned, in float32, several."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.parts = nn.Sequential(*(random.choice(PARTS)(width) for _ in range(random.randint(1, 3))))
        self.ending = random.randrange(4)

    def forward(self, x: Tensor) -> Any:
        y = self.parts(x)
        match self.ending:
            case 0:
                return y
            case 1:
                return y.mT, y[:, -1].float()
            case 2:
                return {"all": y, "first": y[:, 0], "given": x, "best": y.argmax(-1)}
            case _:
                return y.sum(-1)


def made(seed: int, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    random.seed(seed)
    torch.manual_seed(seed)
    width = random.choice((6, 8, 16))
    model = Model(width).eval()
    return model.to(dtype), torch.randn(random.choice((1, 2, 3)), random.choice((1, 5, 8)), width).to(dtype)


def rms(x: Tensor) -> float:
    return float(x.detach().double().square().mean().sqrt())


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("seed", range(12))
def test_a_random_model_is_nearer_to_float64_than_itself(seed: int, dtype: torch.dtype) -> None:
    model, x = made(seed, dtype)
    fast = rt.compile(model, (x,), strict=True)
    assert "without the rounding of" in str(fast.explain(measure=False))
    exact_model = copy.deepcopy(
        model
    ).float()  # float32 holds the weights; of Explicit's casts to x.dtype nothing is left
    for batch in (x.shape[0], 4):
        given = torch.randn(batch, *x.shape[1:]).to(dtype)
        own, got = model(given), fast(given)
        exact = exact_model(given.float())
        leaves = [torch.utils._pytree.tree_leaves(r) for r in (own, got, exact)]
        for a, b, c in zip(*leaves):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            if a.dtype == torch.int64:
                assert (a == b).float().mean() > 0.5  # of two numbers that rounding makes equal either is the largest
            else:
                step = torch.finfo(a.dtype).eps / 2 if a.dtype in HALVES else 1e-5
                assert rms(b.double() - c.double()) <= step * rms(c) + 1e-6
        out = torch.utils._pytree.tree_map(lambda t: torch.full_like(t, 77), got)
        fast.run(given, out=out)
        for a, b in zip(torch.utils._pytree.tree_leaves(out), leaves[1]):
            assert torch.equal(a, b)


def test_indices_and_a_half_input_together() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)

        def forward(self, index: Tensor, x: Tensor) -> Tensor:
            return self.head(self.table(index) + x)

    model = Table().bfloat16().eval()
    index, x = torch.randint(0, 20, (3, 4)), torch.randn(3, 4, 8).bfloat16()
    fast = rt.compile(model, (index, x), strict=True)
    want = model.float()(index, x.float()).bfloat16()
    assert torch.equal(fast(index, x), want) or rms(fast(index, x) - want) < 1e-2 * rms(want)
    with pytest.raises(rt.ShapeError, match="bfloat16"):
        fast(index, x.float())


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_file_takes_and_gives_halves(dtype: torch.dtype, tmp_path: Any) -> None:
    model, x = Dense(8).eval().to(dtype), torch.randn(2, 8).to(dtype)
    fast = rt.compile(model, (x,), strict=True)
    rt.save(fast, tmp_path / "half.rta")
    loaded = rt.load(tmp_path / "half.rta")
    assert [kind for _, kind, _ in (*loaded.inputs, *loaded.outputs)] == [str(dtype).removeprefix("torch.")] * 2
    for _ in range(3):
        x = torch.randn(2, 8).to(dtype)
        assert torch.equal(loaded(x), fast(x))
    assert fast(x).dtype == dtype


def test_int8_of_a_half_model() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8)).bfloat16().eval()
    batches = [torch.randn(64, 32).bfloat16() for _ in range(4)]
    fast = rt.compile(model, (batches[0][:1],), scheme="w8a8", calibration=batches, strict=True)
    x = torch.randn(50, 32).bfloat16()
    want = copy.deepcopy(model).float()(x.float())
    assert 1e-4 < rms(fast(x).float() - want) < 0.03 * rms(want)


def test_bits_of_a_number_stay_pytorchs() -> None:
    class Bits(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 2).view(torch.int16) & 0x7FFF

    x = torch.randn(2, 8).half()
    with pytest.warns(FallbackWarning):
        fast = rt.compile(Bits().eval(), (x,))
    assert torch.equal(fast(x), Bits()(x))


def test_casts_in_a_float32_model_round() -> None:
    class Rounds(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.bfloat16().float() * 3

    x = torch.randn(4, 16)
    with pytest.warns(FallbackWarning):
        fast = rt.compile(Rounds().eval(), (x,))
    assert torch.equal(fast(x), x.bfloat16().float() * 3)


def test_a_float64_model_says_what_to_do() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).double().eval(), torch.randn(2, 4).double()
    with pytest.warns(FallbackWarning, match="float64"):
        fast = rt.compile(model, (x,))
    assert torch.equal(fast(x), model(x))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_onnx_of_a_half_model(dtype: torch.dtype) -> None:
    onnx = pytest.importorskip("onnx")
    torch.manual_seed(4)
    model, x = Dense(8).eval().to(dtype), torch.randn(3, 8).to(dtype)
    fast = rt.compile(model, (x,), strict=True)
    written = rt.to_onnx(fast)
    onnx.checker.check_model(written)
    kinds = {p.type.tensor_type.elem_type for p in (*written.graph.input, *written.graph.output)}
    assert kinds == {onnx.TensorProto.FLOAT16 if dtype == torch.float16 else onnx.TensorProto.BFLOAT16}
    if dtype == torch.float16:  # NumPy has no other one
        runtime = pytest.importorskip("onnxruntime")
        (y,) = runtime.InferenceSession(written.SerializeToString()).run(None, {"x": x.numpy()})
        assert y.dtype == "float16"
        torch.testing.assert_close(torch.from_numpy(y), fast(x), rtol=1e-3, atol=1e-3)


def test_what_serves_float16_says_so_and_refuses_bfloat16() -> None:
    from rtaccel.serve.v2.tensor_spec import TensorSpec

    assert TensorSpec.of("x", "float16", (-1, 3)).datatype == "FP16"
    with pytest.raises(rt.UnsupportedProblem, match=r"y\.float\(\)"):
        TensorSpec.of("x", "bfloat16", (-1, 3))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_state_in_half_precision(dtype: torch.dtype) -> None:
    class Follows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRUCell(6, 8)
            self.register_buffer("h", torch.zeros(2, 8))

        def forward(self, x: Tensor) -> Tensor:
            self.h[:] = self.cell(x, self.h)
            return self.h * 2

    torch.manual_seed(2)
    model = Follows().eval().to(dtype).requires_grad_(False)
    exact = copy.deepcopy(model).double()
    fast = rt.compile(model, (torch.randn(2, 6).to(dtype),), strict=True)
    for _ in range(12):
        x = torch.randn(2, 6).to(dtype)
        y, want = fast(x), exact(x.double())
        assert y.dtype == dtype
        assert rms(y.double() - want) <= torch.finfo(dtype).eps / 2 * rms(want)
    assert fast.state_dict()["h"].dtype == dtype


class Casts(nn.Module):
    """A float32 model of which parts compute in half precision, as torch.autocast has them, and one number rounds on purpose."""

    def __init__(self, width: int, dtype: torch.dtype, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.dtype, self.last = inner, dtype, nn.Linear(width, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", self.dtype):
            y = self.inner(x)
        with torch.autocast("cpu", enabled=False):
            z = self.last(x * 2)
        return self.last(y[0].float() if isinstance(y, tuple) else y.float()), z


@pytest.mark.filterwarnings("ignore:In CPU autocast")
@pytest.mark.parametrize("kind", [Explicit, Convolution, Attention, Recurrent, nn.Linear], ids=lambda k: k.__name__)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_parts_in_autocast_are_nearer_to_float64_than_the_model(kind: type[nn.Module], dtype: torch.dtype) -> None:
    if kind is Recurrent and dtype == torch.float16:
        pytest.skip("torch has no LSTM in float16 on a CPU")
    torch.manual_seed(3)
    inner = kind(8, 8) if kind is nn.Linear else kind(8)
    model = Casts(8, dtype, inner).eval()
    x = torch.randn(2, 8, 8) if kind is Convolution else torch.randn(2, 5, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        fast = rt.compile(model, (x,))
    exact = copy.copy(model)
    exact.dtype = torch.float32  # in which torch.autocast does nothing
    for own, got, want in zip(model(x), fast(x), exact(x)):
        assert got.dtype == own.dtype
        assert rms(got.double() - want.double()) <= max(2e-6 * rms(want), 0.01 * rms(own.double() - want.double()))


def test_a_half_that_is_computed_with_and_cast_back_rounds_where_it_is_cast_back() -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            half = x.bfloat16()
            return half.float() * 3, (half * half).float()

    x = torch.randn(4, 16)
    with pytest.warns(FallbackWarning):
        fast = rt.compile(Both().eval(), (x,))
    rounded, computed = fast(x)
    assert torch.equal(rounded, x.bfloat16().float() * 3)
    assert torch.equal(computed, x * x)
