"""rtaccel: every scheme that has kernels for the network, as a bound call, and beside it the two other forms of a call.

What rtaccel has no operator for runs as torch's own call inside the compiled model; the row's note says how many steps do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.peers.base import LINEAR, MLPS, RECURRENT, SPARSE, Job, LeftOut, Peer, Runner

PACKAGES = ("rtaccel",)
PRODUCTS = (*MLPS, *LINEAR, *SPARSE, "encoder")
"""Networks whose weights are all those of linear layers: schemes for these alone are rows of them alone."""
STREAMS = (*RECURRENT, "tcn_step")
PEERS = (
    Peer("rt_float32", "rtaccel float32", "ours", "float32", ours=True),
    Peer("rt_bfloat16", "rtaccel bfloat16", "ours", "bfloat16", PRODUCTS, ours=True),
    Peer("rt_w8a16", "rtaccel W8A16", "ours", "w8a16", PRODUCTS, ours=True),
    Peer("rt_w8a8", "rtaccel W8A8", "ours", "w8a8", ours=True),
    Peer("rt_w8a8_dynamic", "rtaccel W8A8 dynamic", "ours", "w8a8_dynamic", ours=True),
    Peer("rt_w4a16", "rtaccel W4A16", "ours", "w4a16", PRODUCTS, ours=True),
    Peer("rt_w4a8", "rtaccel W4A8", "ours", "w4a8", (*PRODUCTS, *RECURRENT), ours=True),
    Peer("rt_w4a8_dynamic", "rtaccel W4A8 dynamic", "ours", "w4a8_dynamic", (*PRODUCTS, *RECURRENT), ours=True),
    Peer("rt_float32_stream", "rtaccel float32, stream", "ours", "float32.stream", STREAMS, ours=True),
    Peer("rt_w8a8_stream", "rtaccel W8A8, stream", "ours", "w8a8.stream", STREAMS, ours=True),
    Peer("rt_w4a8_stream", "rtaccel W4A8, stream", "ours", "w4a8.stream", RECURRENT, ours=True),
)


def scheme(name: str) -> Any:
    """w8a8 and w4a8 stand for static scales here, from calibration data."""
    import rtaccel as rt
    from rtaccel.core.scheme import parse_scheme

    kind, _, dynamic = name.partition("_")
    if kind in ("w8a8", "w4a8"):
        return {"w8a8": rt.W8A8, "w4a8": rt.W4A8}[kind](activation=dynamic or "static")
    return parse_scheme(name)


def load(job: Job, variant: str) -> Runner:
    import torch

    from rtaccel.core.errors import RtaccelError

    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    name, _, form = variant.partition(".")
    try:
        return _stream(job, name) if form == "stream" else _whole(job, name)
    except RtaccelError as error:
        raise LeftOut(str(error)) from error


def _whole(job: Job, name: str) -> Runner:
    """The network as it stands: states are arguments and results, in memory of their own."""
    import torch

    import rtaccel as rt
    from bench.peers.models import BY_NAME, flatten

    model, data = BY_NAME[job.model], job.data()
    x = torch.from_numpy(data.x[0].copy())
    states = tuple(torch.from_numpy(s.copy()) for s in data.states)
    arguments = model.arguments(x, states)
    seen = [
        model.arguments(given[0], tuple(given[1:]))
        for given in ([torch.from_numpy(np.array(c)) for c in call] for call in zip(*data.calibration))
    ]
    fast = rt.compile(model.module(), arguments, scheme(name), calibration=seen if name in ("w8a8", "w4a8") else None)
    _check_scheme(fast)
    out = _like(fast(*arguments))
    call = fast.bind(*arguments, out=out)

    def step(*given: np.ndarray) -> tuple[np.ndarray, ...]:
        for tensor, value in zip((x, *states), given):
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(value)))
        call()
        return tuple(t.clone().numpy() for t in flatten(out))

    forms = {"run": lambda: fast.run(*arguments, out=out), "call": lambda: fast(*arguments)}
    return Runner(step, call, _note(fast), forms)


def _stream(job: Job, name: str) -> Runner:
    """`rt.stream` keeps the states itself: those that the comparison hands in are not looked at, and go back as they came."""
    import torch

    import rtaccel as rt

    data = job.data()
    time_steps = data.calibration[0].reshape(len(data.calibration[0]), -1)
    window = torch.from_numpy(np.ascontiguousarray(time_steps.T if job.model == "tcn_step" else time_steps))[None]
    x = torch.from_numpy(data.x[0].reshape(1, -1).copy())
    live = rt.stream(_over_windows(job), x, scheme(name), calibration=None if name == "float32" else [window])
    _check_scheme(live)
    out = _like(live.step(x))
    call = live.bind(x, out=out)
    live.reset()

    def step(given: np.ndarray, *states: np.ndarray) -> tuple[np.ndarray, ...]:
        x.copy_(torch.from_numpy(np.ascontiguousarray(given.reshape(1, -1))))
        call()
        return (out.clone().numpy(), *states)

    return Runner(step, call, "keeps its states", {"run": lambda: live.run(x, out=out), "call": lambda: live.step(x)})


def _over_windows(job: Job) -> Any:
    """The network as `rt.stream` takes it: from a window to the output, without states as arguments."""
    from torch import Tensor, nn

    from bench.peers.models import BY_NAME, GruKws

    class Window(nn.Module):
        def __init__(self, net: GruKws) -> None:
            super().__init__()
            self.gru, self.head = net.gru, net.head

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.gru(x)[0])

    module = BY_NAME["tcn" if job.model == "tcn_step" else job.model].module()
    return Window(module).eval() if isinstance(module, GruKws) else module


def _check_scheme(fast: Any) -> None:
    """Raises LeftOut where a layer is computed in another scheme than asked for: that scheme's row is there already."""
    for note in getattr(getattr(fast, "_program", None), "notes", ()):
        if " is computed as " in note:
            raise LeftOut(note)


def _like(result: Any) -> Any:
    import torch

    if isinstance(result, torch.Tensor):
        return torch.empty_like(result)
    return tuple(_like(part) for part in result)


def _note(fast: Any) -> str:
    """How many of the compiled model's steps are torch's own calls."""
    lines: Callable[..., Any] | None = getattr(fast, "explain_lines", None)
    if lines is None:
        return "not captured: torch with swapped layers"
    found = lines(measure=False)
    torch_steps = sum(line.kernel == "torch" for line in found)
    return f"{torch_steps} of {len(found)} steps are torch's" if torch_steps else ""
