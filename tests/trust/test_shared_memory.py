"""Memory that a model shares with what is compiled of it: none; and a model is as it was, whatever became of a capture."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from tests.trust.test_model_state import Appends, Caches, Counts, Notes, Remembers


class Table(nn.Module):
    """A constant that a torch call reads, one that is returned, and a view of one."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.register_buffer("table", torch.randn(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.special.airy_ai(self.lin(x) * 1.0) * self.table, self.table, self.table[1:3]


def test_nothing_is_shared_with_the_model() -> None:
    model, x = Table().eval(), torch.randn(3, 4)
    before = copy.deepcopy(model.state_dict())
    fast = rt.compile(model, (x,))
    want = [t.clone() for t in fast(x)]

    def same() -> bool:
        return all(torch.equal(a, b) for a, b in zip(fast(x), want))

    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1)  # the original changes
    assert same()
    for tensor in fast(x):
        tensor.fill_(7)  # results are the caller's
    assert same()
    for tensor in fast.state_dict().values():
        tensor.fill_(1)  # and so is a state dict
    assert same()
    twin = copy.deepcopy(fast)
    state = {k: torch.zeros_like(v) if v.is_floating_point() else v for k, v in fast.state_dict().items()}
    given = {k: v.clone() for k, v in state.items()}
    twin.load_state_dict(given, assign=True)
    changed = twin(x)[0].clone()
    assert same() and not torch.equal(changed, want[0])
    for tensor in given.values():
        tensor.fill_(3)  # loaded tensors stay the caller's too
    assert torch.equal(twin(x)[0], changed)
    model.load_state_dict(before)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("kind", [Remembers, Counts, Notes, Caches, Appends])
def test_the_model_is_not_touched(kind: type[nn.Module]) -> None:
    model = kind().eval()
    attributes = {k: copy.copy(v) for k, v in vars(model).items() if not k.startswith("_")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        rt.compile(model, (torch.randn(2, 4),))
    after = {k: v for k, v in vars(model).items() if not k.startswith("_")}
    assert after.keys() == attributes.keys()
    assert all(type(after[k]) is type(v) and (v is after[k] or v == after[k]) for k, v in attributes.items())


class Fails(nn.Module):
    """Leaves a tensor of the tracer in an attribute where it is traced itself."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.kept = nn.Linear(4, 4), None

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.lin(x)
        return self.kept if self.kept.sum().item() > 0 else -self.kept


def test_a_capture_that_fails_leaves_nothing_behind(capfd: pytest.CaptureFixture[str]) -> None:
    model, x = Fails().eval(), torch.randn(2, 4)
    with pytest.warns(UserWarning, match="was not captured"):
        fast = rt.compile(model, (x,))
    assert model.kept is None
    for _ in range(3):
        x = torch.randn(2, 4)
        torch.testing.assert_close(fast(x), model(x).detach())
    assert type(model.kept) is Tensor
    shown = capfd.readouterr()
    assert "graph()" not in shown.err + shown.out and "Traceback" not in shown.err
