"""rt.stream of features of the last time steps as users write them: differences, lags, and what runs over the last few."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

F = nn.functional
STREAMS, STEPS, FEATURES = 2, 23, 5


def zeros(x: Tensor, steps: int = 1) -> Tensor:
    return x.new_zeros(x.shape[0], steps, x.shape[2])


def last(x: Tensor, steps: int) -> Tensor:
    """[batch, time, features, steps]: of each time step it and those before."""
    return F.pad(x, (0, 0, steps - 1, 0)).unfold(1, steps, 1)


FEATURES_OF: dict[str, Callable[[Tensor], Tensor]] = {
    "padded difference": lambda x: x - F.pad(x, (0, 0, 1, 0))[:, :-1],
    "difference": lambda x: torch.diff(x, dim=1, prepend=zeros(x)),
    "beside it": lambda x: torch.cat([x, torch.diff(x, dim=1, prepend=torch.zeros_like(x[:, :1])) * 0.5], -1),
    "the step before": lambda x: torch.cat([x, torch.cat([zeros(x), x[:, :-1]], 1)], -1),
    "three steps before": lambda x: torch.cat([torch.zeros(x.shape[0], 3, x.shape[2]), x[:, :-3]], 1) * x,
    "second difference": lambda x: torch.diff(torch.diff(x, dim=1, prepend=zeros(x)), dim=1, prepend=zeros(x)),
    "mean of the last": lambda x: last(x, 4).mean(-1),
    "off the mean of the last": lambda x: x - last(x, 7).mean(-1),
    "range of the last": lambda x: last(x, 6).amax(-1) - last(x, 6).amin(-1),
    "sum of the last": lambda x: last(x, 3).sum(-1),
    "mean of all of the last": lambda x: last(x, 6).mean((-1, -2)).unsqueeze(-1) + x,
    "without padding": lambda x: torch.relu(x).unfold(1, 3, 1).mean(-1),
    "of one window and another": lambda x: last(last(x, 3).mean(-1), 4).amax(-1),
    "all together": lambda x: torch.cat([x, last(x, 4).mean(-1), torch.diff(x, dim=1, prepend=zeros(x))], -1),
}


class Model(nn.Module):
    def __init__(self, features: Callable[[Tensor], Tensor], memory: bool) -> None:
        super().__init__()
        self.features = features
        width = features(torch.zeros(1, 30, FEATURES)).shape[-1]
        self.memory = nn.GRU(width, 6, batch_first=True) if memory else None
        self.head = nn.Linear(6 if memory else width, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        y = self.memory(y)[0] if self.memory is not None else y
        return self.head(y[:, -1])


@pytest.mark.parametrize("memory", [False, True], ids=["plain", "recurrent"])
@pytest.mark.parametrize("name", FEATURES_OF)
def test_steps_are_those_of_the_window(name: str, memory: bool) -> None:
    torch.manual_seed(len(name))
    model = Model(FEATURES_OF[name], memory).eval()
    live = rt.stream(model, torch.randn(STREAMS, FEATURES))
    x = torch.randn(STREAMS, STEPS, FEATURES)
    for again in range(2):
        live.reset()
        for t in range(STEPS):
            got = live.step(x[:, t])
            if name not in ("without padding", "three steps before") or t >= 2:
                with torch.no_grad():
                    torch.testing.assert_close(got, model(x[:, : t + 1]), rtol=1e-4, atol=1e-5, msg=f"{again}, {t}")


def test_time_steps_in_front_that_are_no_zeros_are_refused() -> None:
    model = Model(lambda x: x - torch.cat([torch.ones_like(x[:, :1]), x[:, :-1]], 1), False).eval()
    with pytest.raises(rt.UnsupportedProblem, match="different time steps"):
        rt.stream(model, torch.randn(STREAMS, FEATURES))
