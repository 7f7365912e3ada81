"""rtaccel: every scheme as a bound call, and the main one in its two other forms.

What rtaccel has no operator for runs as torch's own call inside the compiled model; the row's note says how many steps do.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.peers.base import RECURRENT, Job, LeftOut, Peer, Runner

PACKAGES = ("rtaccel",)
STREAMS = (*RECURRENT, "tcn_step")
PEERS = (
    Peer("rt_float32", "rtaccel float32", "ours", "float32", ours=True),
    Peer("rt_bfloat16", "rtaccel bfloat16", "ours", "bfloat16", ours=True),
    Peer("rt_w8a8", "rtaccel W8A8", "ours", "w8a8", ours=True),
    Peer("rt_w8a8_dynamic", "rtaccel W8A8 dynamic", "ours", "w8a8_dynamic", ours=True),
    Peer("rt_w4a8", "rtaccel W4A8", "ours", "w4a8", ours=True),
    Peer("rt_w8a8_run", "rtaccel W8A8, fast.run", "ours", "w8a8.run", ours=True),
    Peer("rt_w8a8_call", "rtaccel W8A8, fast(x)", "ours", "w8a8.call", ours=True),
    Peer("rt_float32_stream", "rtaccel float32, stream", "ours", "float32.stream", STREAMS, ours=True),
    Peer("rt_w8a8_stream", "rtaccel W8A8, stream", "ours", "w8a8.stream", STREAMS, ours=True),
)


def scheme(name: str) -> Any:
    import rtaccel as rt
    from rtaccel.core.scheme import parse_scheme

    if name.startswith("w8a8"):
        return rt.W8A8("dynamic" if name.endswith("dynamic") else "static")
    return parse_scheme(name)


def load(job: Job, variant: str) -> Runner:
    import torch

    import rtaccel as rt
    from bench.peers.models import BY_NAME, flatten
    from rtaccel.core.errors import RtaccelError

    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    name, _, form = variant.partition(".")
    if form == "stream":
        return _stream(job, name)
    model, data = BY_NAME[job.model], job.data()
    x = torch.from_numpy(data.x[0].copy())
    states = tuple(torch.from_numpy(s.copy()) for s in data.states)
    arguments = model.arguments(x, states)
    seen = [
        model.arguments(*_split([torch.from_numpy(np.array(column[call])) for column in data.calibration]))
        for call in range(len(data.calibration[0]))
    ]
    try:
        fast = rt.compile(model.module(), arguments, scheme(name), calibration=seen if name == "w8a8" else None)
        result = fast(*arguments)
        out = _like(result)
        call = _form(fast, arguments, out, form)
    except RtaccelError as error:
        raise LeftOut(str(error)) from error

    def step(*given: np.ndarray) -> tuple[np.ndarray, ...]:
        for tensor, value in zip((x, *states), given):
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(value)))
        got = call()
        return tuple(t.clone().numpy() for t in flatten(got if form == "call" else out))

    return Runner(step, call, _note(fast))


def _stream(job: Job, name: str) -> Runner:
    """`rt.stream` keeps the states itself: those that the comparison hands in are not looked at, and go back as they came."""
    import torch

    import rtaccel as rt
    from bench.peers.models import BY_NAME
    from rtaccel.core.errors import RtaccelError

    if not hasattr(rt, "stream"):
        raise LeftOut("rtaccel.stream is not built yet")
    window = BY_NAME["tcn" if job.model == "tcn_step" else job.model].module()
    x = torch.from_numpy(job.data().x[0].copy())
    try:
        live = rt.stream(window, x, scheme=scheme(name))
    except RtaccelError as error:
        raise LeftOut(str(error)) from error
    live.reset()

    def call() -> Any:
        return live.step(x)

    def step(given: np.ndarray, *states: np.ndarray) -> tuple[np.ndarray, ...]:
        x.copy_(torch.from_numpy(np.ascontiguousarray(given)))
        return (call().clone().numpy(), *states)

    return Runner(step, call, "keeps its states")


def _split(given: list[Any]) -> tuple[Any, tuple[Any, ...]]:
    return given[0], tuple(given[1:])


def _like(result: Any) -> Any:
    import torch

    if isinstance(result, torch.Tensor):
        return torch.empty_like(result)
    return tuple(_like(part) for part in result)


def _form(fast: Any, arguments: tuple[Any, ...], out: Any, form: str) -> Any:
    if form == "call":
        return lambda: fast(*arguments)
    if form == "run":
        return lambda: fast.run(*arguments, out=out)
    return fast.bind(*arguments, out=out)


def _note(fast: Any) -> str:
    """How many of the compiled model's steps are torch's own calls."""
    lines = getattr(fast, "explain_lines", None)
    if lines is None:
        return "not captured: torch with swapped layers"
    found = lines(measure=False)
    torch_steps = sum(line.kernel == "torch" for line in found)
    return f"{torch_steps} of {len(found)} steps are torch's" if torch_steps else ""
