"""QuantMultiheadAttention and QuantEmbedding: as the float layer within int8, same masks, state, bad input."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.nn import QuantEmbedding, QuantMultiheadAttention

INF = float("inf")


def layer(**options) -> nn.MultiheadAttention:
    torch.manual_seed(3)
    made = nn.MultiheadAttention(24, 3, **{"batch_first": True, **options}).eval()
    if made.out_proj.bias is not None:
        nn.init.normal_(made.out_proj.bias)
    return made


def near(got: torch.Tensor, want: torch.Tensor) -> None:
    assert got.shape == want.shape
    error = (got - want).double().square().mean().sqrt() / want.double().square().mean().sqrt()
    assert error < 0.03, error


def both(module: nn.MultiheadAttention, fast: QuantMultiheadAttention, *inputs, **options):
    with torch.no_grad():
        want = module(*inputs, **{"need_weights": False, **options})
    got = fast(*inputs, **{"need_weights": False, **options})
    near(got[0], want[0])
    assert (got[1] is None) == (want[1] is None)
    if got[1] is not None:
        torch.testing.assert_close(got[1], want[1], atol=0.02, rtol=0)
    return got[0]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("calibrated", [True, False])
def test_self_attention(batch_first: bool, bias: bool, calibrated: bool) -> None:
    module = layer(batch_first=batch_first, bias=bias)
    x = torch.randn(2, 7, 24)
    fast = QuantMultiheadAttention.from_float(module, rt.W8A8(), [x] if calibrated else None)
    assert fast.out_proj.scheme.activation == ("static" if calibrated else "dynamic")
    both(module, fast, x, x, x)
    both(module, fast, x[0], x[0], x[0])  # without a batch


@pytest.mark.parametrize("options", [{}, {"kdim": 10, "vdim": 12}])
def test_cross_attention(options) -> None:
    module = layer(**options)
    query, key, value = torch.randn(2, 5, 24), torch.randn(2, 9, module.kdim), torch.randn(2, 9, module.vdim)
    fast = QuantMultiheadAttention.from_float(module, "w8a8", [(query, key, value)])
    both(module, fast, query, key, value)
    both(module, fast, query, key, value, need_weights=True)
    both(module, fast, query, key, value, need_weights=True, average_attn_weights=False)


def test_masks() -> None:
    module, x = layer(), torch.randn(2, 6, 24)
    fast = QuantMultiheadAttention.from_float(module)
    causal = torch.ones(6, 6, dtype=torch.bool).triu(1)
    padding = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    for need_weights in (False, True):
        common = {"need_weights": need_weights}
        both(module, fast, x, x, x, attn_mask=causal, **common)
        both(module, fast, x, x, x, attn_mask=causal, is_causal=True, **common)
        both(module, fast, x, x, x, attn_mask=torch.randn(6, 6), **common)
        both(module, fast, x, x, x, attn_mask=torch.randn(6, 6, 6), **common)
        both(module, fast, x, x, x, key_padding_mask=padding, **common)
        both(
            module,
            fast,
            x,
            x,
            x,
            key_padding_mask=torch.zeros(2, 6).masked_fill(padding, -INF),
            attn_mask=torch.randn(6, 6, 6),
        )
        both(module, fast, x[1], x[1], x[1], key_padding_mask=padding[1], **common)
    shut = torch.zeros(6, 6)
    shut[2] = -INF
    torch.testing.assert_close(
        fast(x, x, x, attn_mask=shut, need_weights=False)[0][:, 2], fast.out_proj(torch.zeros(2, 24))
    )
    assert fast(x, x, x, attn_mask=shut, need_weights=True)[0][:, 2].isnan().all()


def test_samples_stay_apart() -> None:
    fast, x = QuantMultiheadAttention.from_float(layer()), torch.randn(3, 6, 24)
    clean = fast(x, x, x, need_weights=False)[0]
    x[1, 2, 3] = float("nan")
    got = fast(x, x, x, need_weights=False)[0]
    assert got[1].isnan().all() and torch.equal(got[[0, 2]], clean[[0, 2]])


def test_many_shapes() -> None:
    module = layer()
    fast = QuantMultiheadAttention.from_float(module)
    for t in [*range(1, 20), 3]:
        x = torch.randn(1, t, 24)
        both(module, fast, x, x, x)


def test_state_and_copies() -> None:
    x = torch.randn(2, 5, 24)
    fast = QuantMultiheadAttention.from_float(layer(), "w8a8", x)
    want = fast(x, x, x, need_weights=False)[0]
    file = io.BytesIO()
    torch.save(fast.state_dict(), file)
    file.seek(0)
    other = QuantMultiheadAttention(24, 3, batch_first=True, scheme=rt.W8A8("static"))
    other.load_state_dict(torch.load(file, weights_only=True))
    for made in (other, copy.deepcopy(fast)):
        assert torch.equal(made(x, x, x, need_weights=False)[0], want)


def test_compiled() -> None:
    fast, x = QuantMultiheadAttention.from_float(layer()), torch.randn(2, 5, 24)
    compiled = torch.compile(lambda x: fast(x, x, x, need_weights=False)[0], backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), fast(x, x, x, need_weights=False)[0], rtol=1e-2, atol=1e-2)


def test_wrong_layers() -> None:
    for bad in (nn.Linear(3, 3), layer(add_bias_kv=True), layer(add_zero_attn=True), layer().double()):
        with pytest.raises(rt.UnsupportedProblem):
            QuantMultiheadAttention.from_float(bad)
    with pytest.raises(rt.UnsupportedProblem, match="heads"):
        QuantMultiheadAttention(24, 5)
    with pytest.raises(rt.FormatError, match="static"):
        QuantMultiheadAttention.from_float(layer(), rt.W8A8("static"))
    for calibration in (torch.randn(2, 5, 23), [], [(torch.randn(2, 5, 24),) * 2], ["x"]):
        with pytest.raises(rt.FormatError):
            QuantMultiheadAttention.from_float(layer(), rt.W8A8(), calibration)


def test_wrong_input() -> None:
    fast, x = QuantMultiheadAttention.from_float(layer()), torch.randn(2, 5, 24)
    for q, k, v in (
        (x, x, x[:, :4]), (x, x[:1], x[:1]), (x[0], x, x), (x[..., :23], x, x), (x.double(), x, x), (None, x, x), (x[None],) * 3,
    ):  # fmt: skip
        with pytest.raises(rt.ShapeError):
            fast(q, k, v, need_weights=False)
    for options in (
        {"attn_mask": torch.zeros(5, 4)}, {"attn_mask": torch.zeros(5, 5, dtype=torch.int64)}, {"attn_mask": "x"},
        {"key_padding_mask": torch.zeros(2, 4)}, {"is_causal": True},
    ):  # fmt: skip
        with pytest.raises(rt.FormatError):
            fast(x, x, x, need_weights=False, **options)
    assert fast(x, x, x, need_weights=False)[0].isfinite().all()


# -- QuantEmbedding ------------------------------------------------------------------------------------------------


def test_embedding() -> None:
    table = nn.Embedding(30, 20)
    fast = QuantEmbedding.from_float(table)
    for index in (torch.tensor(4), torch.randint(0, 30, (2, 5)), torch.randint(0, 30, (3, 2, 2), dtype=torch.int32),
                  torch.zeros(0, 4, dtype=torch.int64), torch.randint(0, 30, (4, 6)).T):  # fmt: skip
        got = fast(index)
        assert got.shape == table(index).shape
        assert torch.equal(got, fast.qweight[index].float() * fast.weight_scale[index].unsqueeze(-1))
        assert ((got - table(index)).abs() <= 0.5001 * fast.weight_scale[index].unsqueeze(-1)).all()
    other = QuantEmbedding(30, 20)
    other.load_state_dict(fast.state_dict())
    index = torch.randint(0, 30, (7,))
    assert torch.equal(other(index), fast(index)) and torch.equal(copy.deepcopy(fast)(index), fast(index))
    other.weight_scale.mul_(2)  # in place
    assert torch.equal(other(index), 2 * fast(index))
    assert fast.half().weight_scale.dtype == torch.float32


def test_embedding_refuses() -> None:
    fast = QuantEmbedding.from_float(nn.Embedding(30, 20))
    for bad in (30, -1):
        with pytest.raises(rt.FormatError, match=str(bad)):
            fast(torch.tensor([0, bad]))
    for index in (torch.zeros(3), [1], torch.zeros(2, dtype=torch.bool)):
        with pytest.raises(rt.ShapeError):
            fast(index)
    for module, scheme in (
        (nn.Linear(2, 2), "w8a16"),
        (nn.Embedding(3, 3, max_norm=1.0), "w8a16"),
        (nn.Embedding(3, 3), "float32"),
    ):
        with pytest.raises(rt.UnsupportedProblem):
            QuantEmbedding.from_float(module, scheme)
    state = fast.state_dict()
    before = {k: v.clone() for k, v in state.items()}
    for name, wrong in (("qweight", torch.zeros(30, 19, dtype=torch.int8)), ("weight_scale", torch.zeros(30))):
        with pytest.raises(rt.FormatError, match=name):
            fast.load_state_dict({**before, name: wrong})
        assert all(torch.equal(fast.state_dict()[k], v) for k, v in before.items())
