"""Layers of modules that turn, join and divide dimensions: each gives the next value of a drawing, or leaves it as it is."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from tests.support.generators.layouts import Drawing


def _width(g: Drawing, d: int = -1) -> int:
    return prod(g.dims[d])


def linear(g: Drawing) -> None:
    g.last(1)
    out = g.of(1, 2, 3)
    g.give(f"{g.layer(nn.Linear(_width(g), out))}({g.at})", [*g.dims[:-1], (out,)])


def from_the_left(g: Drawing) -> None:
    g.last(2)
    out = g.of(1, 2, 3)
    g.give(f"{g.constant(out, _width(g, -2))} @ {g.at}", [*g.dims[:-2], (out,), g.dims[-1]])


def of_each_head(g: Drawing) -> None:
    """A matrix of its own for what is joined with the samples."""
    g.last(2, rank=3)
    width, out = _width(g), g.of(1, 2, 3)
    weight = g.each([g.dims[0], (width,), (out,)])
    g.give(f"torch.matmul({g.at}, {weight})", [*g.dims[:-1], (out,)])


def of_itself(g: Drawing) -> None:
    g.last(2)
    g.give(f"{g.at} @ ({g.same()}).transpose(-1, -2)", [*g.dims[:-1], g.dims[-2]])


def constants(g: Drawing) -> None:
    g.give(f"{g.at} {g.of('+', '*')} {g.each(g.dims)}", g.dims)


def two_values(g: Drawing) -> None:
    call = g.of("{} + {}", "{} * {}", "torch.maximum({}, {})", "torch.atan2({}, 3 + ({}).abs())", "torch.hypot({}, {})")
    g.give(call.format(g.at, g.same()), g.dims)


def columns(g: Drawing) -> None:
    if g.fixed():
        d = g.of(*g.fixed())
        g.give(f"torch.cat([{g.same()}, {g.at}], {d})", [*g.dims[:d], (2, *g.dims[d]), *g.dims[d + 1 :]])


def along(g: Drawing) -> None:
    if g.fixed():
        call = g.of("cumsum({})", "softmax({})", "cummax({})[0]", "logcumsumexp({})", "log_softmax({})", "sort({})[0]")
        g.give(f"{g.at}.{call.format(g.of(*g.fixed()))}", g.dims)


def reduction(g: Drawing) -> None:
    found = g.fixed()
    if found and len(g.dims) > 1:
        over = sorted(g.rng.sample(found, g.of(1, len(found)) if len(found) < len(g.dims) else 1))
        kept, named = g.chance(0.4), g.of("sum", "mean", "amax", "amin", "logsumexp")
        dims = [(1,) if d in over else dim for d, dim in enumerate(g.dims) if kept or d not in over]
        g.give(f"{g.at}.{named}({over}, keepdim={kept})", dims)


def places(g: Drawing) -> None:
    if g.fixed():
        d = g.of(*g.fixed())
        call = g.of("({1}).gather({2}, {0}.argsort({2}))", "{0}.scatter({2}, ({1}).argsort({2}), torch.tanh({0}))")
        g.give(call.format(g.at, g.same(), d), g.dims)


def norm(g: Drawing) -> None:
    g.last(1)
    width = _width(g)
    g.give(f"{g.layer(g.of(nn.LayerNorm, nn.RMSNorm)(width, eps=1e-2))}({g.at})", g.dims)


def channels(g: Drawing) -> None:
    """A convolution, a pool or a norm of channels."""
    g.last(2, rank=3)
    width, steps = _width(g, 1), _width(g)
    kind, taps = g.of("conv", "conv", "pool", "group"), min(steps, g.of(1, 2, 3))
    if kind == "conv":
        out = g.of(1, 2, 3)
        g.give(f"{g.layer(nn.Conv1d(width, out, taps))}({g.at})", [g.dims[0], (out,), (steps - taps + 1,)])
    elif kind == "pool":
        g.give(f"F.{g.of('max', 'avg')}_pool1d({g.at}, {taps}, 1)", [*g.dims[:2], (steps - taps + 1,)])
    else:
        g.give(f"{g.layer(nn.GroupNorm(1, width, eps=1e-2))}({g.at})", g.dims)


def recurrent(g: Drawing) -> None:
    """With a state of each sequence that is computed, or constant, or none."""
    g.last(2, rank=3)
    first, hidden, layers = g.chance(0.5), g.of(1, 2, 3), g.of(1, 1, 2)
    if not first:
        g.turn([1, 0, 2])
    place = 0 if first else 1
    rows, width = g.dims[place], _width(g)
    layer = g.layer(g.of(nn.GRU, nn.RNN)(width, hidden, layers, batch_first=first))
    states = {
        "none": "",
        "fixed": f", ({g.each([(layers,), rows, (hidden,)])}).expand({layers}, {g.at}.shape[{place}], {hidden})",
        "computed": f", torch.stack(({g.at}.mean({1 - place}) @ {g.constant(width, layers * hidden)}).chunk({layers}, -1))",
    }
    state = states[g.of(*states)]
    if state and rows == (layers,) and g.chance(0.5):
        state += ".transpose(0, 1).contiguous()"
    if g.chance(0.3):
        g.give(f"{layer}({g.at}{state})[1]", [(layers,), rows, (hidden,)])
    else:
        g.give(f"{layer}({g.at}{state})[0]", [*g.dims[:2], (hidden,)])


def cell(g: Drawing) -> None:
    g.last(1, rank=2)
    width, hidden = _width(g), g.of(2, 3)
    layer = g.layer(g.of(nn.GRUCell, nn.RNNCell)(width, hidden))
    fixed = f"({g.each([g.dims[0], (hidden,)])}).expand({g.at}.shape[0], {hidden})"
    state = g.of(fixed, f"({g.same()}) @ {g.constant(width, hidden)}")
    g.give(f"{layer}({g.at}, {state})", [g.dims[0], (hidden,)])


def attention(g: Drawing) -> None:
    """Heads in front of the samples or behind them, apart or joined, with a mask of each."""
    g.last(2, rank=3)
    (lead, steps, _), heads, depth = g.dims, g.of(1, 2, 3), g.of(1, 2, 3)
    rows, width = g.at, _width(g)
    order = g.of([0, 2, 1, 3], [2, 0, 1, 3])
    joined, names = g.chance(0.5), []
    for _ in range(3):
        layer = g.layer(nn.Linear(width, heads * depth))
        g.at, g.dims = rows, [lead, steps, (width,)]
        apart = [lead, steps, (heads,), (depth,)]
        g.give(f"{layer}({rows}).unflatten(-1, ({heads}, {depth})).permute({order})", [apart[d] for d in order])
        if joined:
            g.join(0)
        names.append(g.at)
    q, k, v = names
    if len(g.dims) == 4 and g.dims[0] == g.dims[1] and g.chance(0.7):  # heads for samples, in torch's broadcasting
        k, v = (g.of("{}", "{}.transpose(0, 1)", "{}[:, 0]").format(name) for name in (k, v))
    scores = [*g.dims[:-2], steps, steps]
    mask = g.each(scores)
    form = g.of("fused", "causal", "written", "hidden", "first")
    if form == "fused":
        made = f"F.scaled_dot_product_attention({q}, {k}, {v}, attn_mask={mask})"
    elif form == "causal":
        made = f"F.scaled_dot_product_attention({q}, {k}, {v}, is_causal=True)"
    elif form == "written":
        made = f"(({q} @ {k}.transpose(-1, -2)) / 2 + {mask}).softmax(-1) @ {v}"
    elif form == "hidden" or not joined:
        made = f"({q} @ {k}.transpose(-1, -2)).masked_fill({mask} > 1, -1e9).softmax(-1) @ {v}"
    else:
        whole = f"({mask}).expand({q}.shape[0], -1, -1)" if prod(steps) > 1 else f"{q} @ {k}.transpose(1, 2)"
        made = f"torch.bmm(torch.baddbmm({whole}, {q}, {k}.transpose(1, 2)).softmax(-1), {v})"
    g.give(made, g.dims)


def system(g: Drawing) -> None:
    g.last(2)
    width, x = _width(g), g.at
    matrix = f"{x}.transpose(-1, -2) @ {x} + 3 * torch.eye({width}, dtype={x}.dtype)"
    g.give(f"torch.linalg.solve({matrix}, ({g.same()}).transpose(-1, -2))", [*g.dims[:-2], g.dims[-1], g.dims[-2]])


LAYERS: tuple[Callable[[Drawing], None], ...] = (
    linear, from_the_left, of_each_head, of_itself, constants, two_values, two_values, columns, along, reduction, places, norm,
    channels, recurrent, recurrent, cell, attention, attention, attention, system,
)  # fmt: skip
