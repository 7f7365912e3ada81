"""Networks drawn from a seed that move elements about between small layers: values read twice, and returned twice.

Random programs of tests/generated draw every operator once in a while. These draw few, so that copies, scales and layers meet.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn

F = nn.functional
Call = Callable[[Tensor, Tensor], Tensor]
"""Of the value itself and another one."""

SAMPLES = 5
"""No dimension of a sample has this size."""
MAX_ELEMENTS = 20_000

ACTIVATIONS = (
    torch.relu, torch.tanh, torch.sigmoid, torch.abs, torch.square, F.silu, F.gelu, F.elu, F.hardswish, F.relu6, F.softplus,
    lambda x: F.leaky_relu(x, 0.1), lambda x: x.clamp(-1, 1), lambda x: x * 2 - 1,
)  # fmt: skip
REDUCTIONS = (torch.mean, torch.sum, torch.amax)
POOLS = {
    3: (lambda x: F.max_pool1d(x, 2), lambda x: F.avg_pool1d(x, 2), lambda x: F.adaptive_max_pool1d(x, 1)),
    4: (
        lambda x: F.max_pool2d(x, 2), lambda x: F.avg_pool2d(x, 2), lambda x: F.max_pool2d(x, 3, 1, 1),
        lambda x: F.adaptive_avg_pool2d(x, 1), lambda x: F.adaptive_max_pool2d(x, 2),
    ),
}  # fmt: skip


class Network(nn.Module):
    """shape: of a sample. words: what it does, for a message."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._rng = rng = random.Random(seed)
        torch.manual_seed(seed)
        self.shape = tuple(rng.choice((1, 2, 3, 4, 6, 8, 12, 16, 17)) for _ in range(rng.choice((1, 2, 2, 3))))
        self.layers, self.words = nn.ModuleList(), [f"seed {seed}, {self.shape}"]
        self._calls: list[tuple[Call, int, int]] = []
        values = [torch.randn(SAMPLES, *self.shape)]
        for _ in range(rng.randint(3, 9)):
            self._add(values)
        self._second = rng.randrange(len(values)) if rng.random() < 0.3 else 0

    def _add(self, values: list[Tensor]) -> None:
        """A step that gives a finite tensor of samples, if one is found."""
        rng = self._rng
        for _ in range(20):
            here, other = rng.randrange(max(0, len(values) - 3), len(values)), rng.randrange(len(values))
            kind = rng.choice([*ANY_RANK, *BY_RANK.get(values[here].dim(), ())])
            known = len(self.layers)
            try:
                call = kind(self, values[here])
                made = call(values[here], values[other])
            except (RuntimeError, IndexError, ValueError):  # not of these shapes
                made = torch.empty(0)
            fits = made.dim() > 0 and made.shape[0] == SAMPLES and 0 < made.numel() <= MAX_ELEMENTS
            fits = fits and SAMPLES not in made.shape[1:]  # each sample beside all others: of one batch alone
            if fits and bool(made.isfinite().all()) and made.abs().max() < 1e3:
                self._calls.append((call, here, other))
                self.words.append(f"{kind.__name__}({here}, {other}) -> {list(made.shape)}")
                values.append(made.detach())
                return
            del self.layers[known:]

    def forward(self, x: Tensor):
        values = [x]
        for call, here, other in self._calls:
            values.append(call(values[here], values[other]))
        return (values[-1], values[self._second]) if self._second else values[-1]

    def layer(self, module: nn.Module) -> nn.Module:
        """The module in eval mode, with random weights and statistics."""
        for name, tensor in module.named_buffers():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 2.0) if name.endswith("var") else tensor.normal_()
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d)):
            for parameter in module.parameters():
                nn.init.normal_(parameter)
        self.layers.append(module.eval())
        return module

    def dim(self, x: Tensor, more: int = 0) -> int:
        """A dimension of a sample."""
        return self._rng.randrange(1, x.dim() + more)

    def of(self, *choices):
        return self._rng.choice(choices)


def activation(net: Network, x: Tensor) -> Call:
    function = net.of(*ACTIVATIONS)
    return lambda a, b: function(a)


def constant(net: Network, x: Tensor) -> Call:
    """Of one dimension, or of all."""
    shape, dim = [1] * (x.dim() - 1), net.dim(x)
    shape[dim - 1] = net.of(x.shape[dim], x.shape[dim], 1)
    given = nn.Parameter(torch.randn(shape if net.of(True, True, True, False) else x.shape[1:]))
    net.layers.append(nn.ParameterList([given]))
    function = net.of(torch.mul, torch.mul, torch.add)
    return lambda a, b: function(a, given)


def linear(net: Network, x: Tensor) -> Call:
    made = net.layer(nn.Linear(x.shape[-1], net.of(1, 3, 4, 8, 17, 32), bias=net.of(True, True, False)))
    return lambda a, b: made(a)


def permute(net: Network, x: Tensor) -> Call:
    order = list(range(1, x.dim()))
    net._rng.shuffle(order)
    return lambda a, b: a.permute([0, *order])


def join(net: Network, x: Tensor) -> Call:
    dim = net.dim(x)
    return lambda a, b: torch.cat([a, b], dim)


def join_itself(net: Network, x: Tensor) -> Call:
    dim, function = net.dim(x), net.of(torch.relu, torch.neg, torch.tanh, lambda t: t)
    return lambda a, b: torch.cat([a, function(a)], dim)


def stack(net: Network, x: Tensor) -> Call:
    dim = net.dim(x, 1)
    return lambda a, b: torch.stack([a, b], dim)


def part(net: Network, x: Tensor) -> Call:
    dim, step = net.dim(x), net.of(1, 1, 2)
    start = net._rng.randrange(0, max(1, x.shape[dim] // 2))
    return lambda a, b: a[(slice(None),) * dim + (slice(start, None, step),)]


def gated(net: Network, x: Tensor) -> Call:
    dim = net.dim(x)
    return lambda a, b: a.chunk(2, dim)[0] * torch.sigmoid(a.chunk(2, dim)[1])


def flip(net: Network, x: Tensor) -> Call:
    dim = net.dim(x)
    return lambda a, b: a.flip(dim)


def roll(net: Network, x: Tensor) -> Call:
    dim, by = net.dim(x), net._rng.randint(-3, 3)
    return lambda a, b: a.roll(by, dim)


def combine(net: Network, x: Tensor) -> Call:
    function = net.of(torch.add, torch.sub, torch.mul)
    return lambda a, b: function(a, b)


def reduce(net: Network, x: Tensor) -> Call:
    dim, function, keep = net.dim(x), net.of(*REDUCTIONS), net.of(True, False)
    return lambda a, b: function(a, dim, keepdim=keep)


def softmax(net: Network, x: Tensor) -> Call:
    dim = net.dim(x)
    return lambda a, b: a.softmax(dim)


def reshape(net: Network, x: Tensor) -> Call:
    if x.dim() > 2 and net.of(True, False):
        first = net._rng.randrange(1, x.dim() - 1)
        return lambda a, b: a.flatten(first, first + 1)
    dim = net.dim(x)
    size = net.of(*(n for n in (1, 2, 3, 4) if x.shape[dim] % n == 0))
    return lambda a, b: a.unflatten(dim, (size, -1))


def normalize(net: Network, x: Tensor) -> Call:
    if x.shape[-1] < 3:  # of one or two numbers the result is little but the rounding of what lies before
        raise ValueError("too few numbers")
    made = net.layer(net.of(nn.LayerNorm(x.shape[-1]), nn.GroupNorm(1, x.shape[1])))
    return lambda a, b: made(a)


def pad(net: Network, x: Tensor) -> Call:
    around, value = (net.of(0, 1, 2), net.of(0, 1, 2)), net.of(0.0, 1.5)
    return lambda a, b: F.pad(a, around, value=value)


def select(net: Network, x: Tensor) -> Call:
    dim = net.dim(x)
    index = torch.tensor([net._rng.randrange(x.shape[dim]) for _ in range(net._rng.randint(1, 5))])
    return lambda a, b: a.index_select(dim, index)


def expand(net: Network, x: Tensor) -> Call:
    dim, times = net.dim(x, 1), net.of(1, 2, 3)
    return lambda a, b: a.unsqueeze(dim).expand(*a.shape[:dim], times, *a.shape[dim:])


def convolve(net: Network, x: Tensor) -> Call:
    image, channels = x.dim() == 4, x.shape[1]
    groups = net.of(*(n for n in (1, 1, 1, 2, channels) if channels % n == 0))
    filters = net.of(1, 2, 4, 8, 16, 24)
    kernel = net.of(1, 2, 3, (1, 3), (3, 1)) if image else net.of(1, 2, 3)
    kind = (
        (net.of(nn.Conv2d, nn.Conv2d, nn.Conv2d, nn.ConvTranspose2d) if groups == 1 else nn.Conv2d)
        if image
        else nn.Conv1d
    )
    filters = filters if filters % groups == 0 else filters * groups
    made = net.layer(kind(channels, filters, kernel, net.of(1, 1, 2), padding=net.of(0, 1), groups=groups))
    return lambda a, b: made(a)


def batch_norm(net: Network, x: Tensor) -> Call:
    made = net.layer((nn.BatchNorm1d if x.dim() == 3 else nn.BatchNorm2d)(x.shape[1]))
    return lambda a, b: made(a)


def pool(net: Network, x: Tensor) -> Call:
    function = net.of(*POOLS[x.dim()])
    return lambda a, b: function(a)


def enlarge(net: Network, x: Tensor) -> Call:
    mode = net.of("nearest", "bilinear")
    return lambda a, b: F.interpolate(a, scale_factor=2, mode=mode)


def excite(net: Network, x: Tensor) -> Call:
    channels = x.shape[1]
    made = net.layer(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1), nn.Sigmoid()))
    return lambda a, b: a * made(a)


ANY_RANK = (
    activation, constant, constant, linear, linear, permute, join, join, join_itself, stack, part, gated, flip, roll, combine,
    combine, reduce, softmax, reshape, normalize, pad, select, expand,
)  # fmt: skip
BY_RANK = {3: (convolve, convolve, pool, batch_norm), 4: (convolve, convolve, pool, batch_norm, enlarge, excite)}
