"""Entries that a mask chooses: native, and the model's results whatever the mask chooses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.runtime.compiled import CompiledModel

NODES, EDGES = 7, 19


class Net(nn.Module):
    def __init__(self, function: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.lin, self.gate, self.table = nn.Linear(5, 6), nn.Linear(5, 3), nn.Embedding(NODES, 6)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.function(self, x, edges)


def _loops(edges: Tensor) -> Tensor:
    """Without the loops there are, and one at each node."""
    own = torch.arange(NODES).repeat(2, 1)
    return torch.cat([edges[:, edges[0] != edges[1]], own], 1)


def graph_convolution(net: nn.Module, x: Tensor, edges: Tensor) -> Tensor:
    source, target = _loops(edges)
    degree = torch.zeros(NODES).scatter_add(0, target, torch.ones(target.shape[0]))
    norm = degree.rsqrt()
    message = net.lin(x)[source] * (norm[source] * norm[target]).unsqueeze(-1)
    return torch.zeros(NODES, 6).index_add(0, target, message)


def graph_attention(net: nn.Module, x: Tensor, edges: Tensor) -> Tensor:
    source, target = _loops(edges)
    value = net.lin(x)
    score = F.leaky_relu(value[source].sum(-1) - value[target].mean(-1), 0.2)
    top = torch.full((NODES,), -torch.inf).scatter_reduce(0, target, score, "amax", include_self=False)
    weight = (score - top.index_select(0, target)).exp()
    total = torch.zeros(NODES).scatter_add(0, target, weight)
    weight = weight / total[target]
    return torch.zeros(NODES, 6).scatter_add(
        0, target.view(-1, 1).expand(-1, 6), weight.view(-1, 1) * value.index_select(-2, source)
    )


def padded_edges(net: nn.Module, x: Tensor, edges: Tensor) -> Tensor:
    """Those below 2 stand for no edge; they would be places outside of the table."""
    left = (edges - 2)[:, edges[0] >= 2]
    return torch.zeros(NODES, 6).index_add(0, left[0], net.table(left[0]) + net.lin(x)[left[0]])


def experts(net: nn.Module, x: Tensor, edges: Tensor) -> Tensor:
    choice, out = net.gate(x).argmax(-1), torch.zeros(NODES, 6)
    for k in range(3):
        rows = (choice == k).nonzero().squeeze(-1)
        out = out.index_add(0, rows, net.lin(x[rows]) * (k + 1))
    return out


def experts_by_where(net: nn.Module, x: Tensor, edges: Tensor) -> Tensor:
    choice, out = net.gate(x).topk(2, -1), torch.zeros(NODES, 6)
    for k in range(3):
        rows, places = torch.where(choice.indices == k)
        out = out.index_add(0, rows, net.lin(x[rows]) * choice.values[rows, places].unsqueeze(-1))
    return out


def copied(net: nn.Module, x: Tensor, edges: Tensor) -> Tensor:
    rows = (x[:, 0] > 0).nonzero().view(-1)
    return torch.ones(NODES, 6).index_copy(0, rows, net.lin(x[rows]))


def written_back(net: nn.Module, x: Tensor, edges: Tensor) -> Tensor:
    value = net.lin(x).relu()
    mask = value[:, 0] > 0.1
    value[mask] = torch.tanh(value[mask]) - 1
    return value


def means(net: nn.Module, x: Tensor, edges: Tensor) -> Tensor:
    left = net.lin(x)[x[:, 1] < 0.5]
    scores = torch.softmax(left[:, 0], 0)
    return torch.cat([left.sum(0), left.mean(0), (scores.unsqueeze(-1) * left).sum(0), left.amax(0), left.amin(0)])


MODELS = [graph_convolution, graph_attention, padded_edges, experts, experts_by_where, copied, written_back, means]


@pytest.mark.parametrize("function", MODELS, ids=lambda f: f.__name__)
def test_chosen_entries_are_native_and_right(function: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    net = Net(function).eval()
    fast = rt.compile(net, (torch.randn(NODES, 5), torch.randint(0, NODES, (2, EDGES))), strict=True)
    for edges in (
        torch.randint(0, NODES, (2, EDGES)),
        torch.randint(2, 4, (2, EDGES)),
        torch.arange(EDGES).remainder(NODES).repeat(2, 1),  # loops alone
        torch.stack([torch.full((EDGES,), 5), torch.full((EDGES,), 2)]),  # none
    ):
        x = torch.randn(NODES, 5)
        torch.testing.assert_close(fast(x, edges), net(x, edges).detach(), rtol=1e-5, atol=1e-5)


def all_or_none(net: nn.Module, x: Tensor, edges: Tensor) -> Tensor:
    left = net.lin(x)[x[:, 0] > 0]
    return left.sum(0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_all_entries_and_none(sign: float) -> None:
    net = Net(all_or_none).eval()
    edges = torch.zeros(2, EDGES, dtype=torch.int64)
    fast = rt.compile(net, (torch.randn(NODES, 5), edges), strict=True)
    x = torch.rand(NODES, 5) * sign
    torch.testing.assert_close(fast(x, edges), net(x, edges).detach(), rtol=1e-5, atol=1e-5)


def returned(net: nn.Module, x: Tensor, edges: Tensor) -> Tensor:
    return net.lin(x)[x[:, 0] > 0]


def first_of_them(net: nn.Module, x: Tensor, edges: Tensor) -> Tensor:
    return torch.cat([net.lin(x)[x[:, 0] > 0], torch.ones(1, 6)])[0]


def running(net: nn.Module, x: Tensor, edges: Tensor) -> Tensor:
    return net.lin(x)[x[:, 0] > 0].cumsum(0).amax(0)


def turned(net: nn.Module, x: Tensor, edges: Tensor) -> Tensor:
    """Beside one another they are entries of two orders."""
    left, one = net.lin(x)[x[:, 0] > 0], torch.ones(1, 6)
    return (torch.cat([left, one]) * torch.cat([one, left])).sum(0)


@pytest.mark.parametrize("function", [returned, first_of_them, running, turned], ids=lambda f: f.__name__)
def test_what_needs_the_chosen_entries_themselves_stays_with_torch(function: Callable[..., Tensor]) -> None:
    net, edges = Net(function).eval(), torch.zeros(2, EDGES, dtype=torch.int64)
    x = torch.randn(NODES, 5)
    x[0, 0], x[1, 0] = 1e-3, -1e-3
    with pytest.warns(UserWarning, match="numbers in a tensor|fall back"):
        fast = rt.compile(net, (x, edges))
    assert not isinstance(fast, CompiledModel) or fast.native[0] < fast.native[1]
    for kept in (NODES, 3):
        x[kept:, 0] = -1
        torch.testing.assert_close(fast(x, edges), net(x, edges).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", [returned, first_of_them, running, turned], ids=lambda f: f.__name__)
def test_entries_that_noise_leaves_as_they_are_are_guarded(function: Callable[..., Tensor]) -> None:
    net, edges = Net(function).eval(), torch.zeros(2, EDGES, dtype=torch.int64)
    x = torch.rand(NODES, 5) + 3.0
    x[-1, 0] = -9.0
    fast = rt.compile(net, (x, edges))
    assert isinstance(fast, rt.GuardedModel) and fast.native[0] == fast.native[1]
    for kept in (NODES, 3):
        x[kept:, 0] = -1
        torch.testing.assert_close(fast(x, edges), net(x, edges).detach(), rtol=1e-5, atol=1e-5)
    assert fast.calls == (1, 1)


class Custom(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.rtaccel_tests.spike(x, 0.5)[0] * 2


@torch.library.custom_op("rtaccel_tests::spike", mutates_args=())
def spike(x: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    fired = (x > bound).to(x.dtype)
    return fired + torch.tanh(x), x - fired * bound


@spike.register_fake
def _(x: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x)


def test_a_custom_operator_in_python_is_taken_apart() -> None:
    model, x = Custom().eval(), torch.randn(3, 8)
    fast = rt.compile(model, x, strict=True)
    for size in (1, 3, 5):
        x = torch.randn(size, 8)
        torch.testing.assert_close(fast(x), model(x))
