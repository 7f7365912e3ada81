"""Random networks of small layers with copies between them, in float32 and W8A8, at the batch that was traced and another one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import rtaccel as rt
from tests.support.generators.model_files import same_bits, through_a_file
from tests.support.generators.movements import SAMPLES, Network


def parts(y: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return y if isinstance(y, tuple) else (y,)


def check(got: Tensor, want: Tensor, error: float, network: Network) -> None:
    """error: relative to the largest result."""
    words = "; ".join(network.words)
    assert got.shape == want.shape, f"{list(got.shape)} instead of {list(want.shape)}: {words}"
    scale = max(want.detach().abs().max().item(), 1e-3)
    assert (got - want).abs().max() <= error * scale, words


@pytest.mark.parametrize("seed", range(400))
def test_equals_torch(seed: int) -> None:
    network = Network(seed).eval()
    data = [torch.randn(SAMPLES, *network.shape) for _ in range(4)]
    with torch.no_grad():
        fast = rt.compile(network, data[0], verify=False)  # nothing is put right by running the model itself
        filed = through_a_file(fast)
        for x in (data[0], torch.randn(3, *network.shape)):
            for got, want in zip(parts(fast(x)), parts(network(x)), strict=True):
                check(got, want, 1e-4, network)
            assert filed is None or same_bits(parts(fast(x)), parts(filed(x))), network.words
        both = [
            rt.compile(network, data[0], "w8a8", calibration=data, backend=b, verify=False) for b in ("cpu", "portable")
        ]
        for got, want in zip(parts(both[0](data[0])), parts(both[1](data[0])), strict=True):
            check(got, want, 0.08, network)  # float32 sums of other orders may round to the next step


def test_samples_that_meet() -> None:
    """The size of a dimension is that of the batch, by chance: fixed shapes have no symbol that tells them apart."""

    class Meets(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.pad(x * x.unsqueeze(2).expand(2, 2, 2), (1, 1))

    x = torch.randn(2, 2)
    fast = rt.compile(Meets().eval(), x, verify=False)
    for given in (x, torch.randn(2, 2)):
        torch.testing.assert_close(fast(given), Meets()(given))


def test_all_that_is_read_is_padding() -> None:
    model = torch.nn.Conv2d(4, 8, (1, 3), 2, padding=1).eval()
    x = torch.randn(3, 4, 1, 6)
    torch.testing.assert_close(rt.compile(model, x, verify=False)(x), model(x))


def test_a_reversed_view_beside_a_call_of_torch() -> None:
    class Reversed(torch.nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return torch.linalg.eigvals(x).abs(), x.flip(-1)

    model = Reversed().eval()
    x = torch.randn(3, 4, 4)
    fast = rt.compile(model, x, verify=False)
    for given in (x, torch.randn(3, 4, 4)):
        for got, want in zip(fast(given), model(given)):
            torch.testing.assert_close(got, want)


def test_a_copy_returned_in_two_shapes() -> None:
    class Twice(torch.nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = torch.nn.functional.pad(x[:, ::2].unsqueeze(2).expand(-1, -1, 3, -1, -1), (1, 1))
            return y.unsqueeze(1), y

    x = torch.randn(5, 8, 7, 17)
    for got, want in zip(rt.compile(Twice().eval(), x, verify=False)(x), Twice()(x)):
        assert torch.equal(got, want)
