"""A causal transformer, one time step a call: keys and values of the past kept, beside peers that keep them too.

    python -m bench.streaming.causal [--contexts 64,256,1024] [--rounds 9] [--json FILE]

Two layers of 64 columns and 4 heads, 8 inputs, 3 outputs, no positions. All have made `context` steps before, so every place is
filled. One thread; calls alternate in one process, and a figure is the smallest mean of a round. Peers: this project's own window
(all of it computed again each step), torch eager and ONNX Runtime with the caches as tensors in and out, moved on by one place.
ONNX Runtime's tensors are bound, and its outputs are the inputs of the next call.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rtaccel as rt

WIDTH, HEADS, LAYERS, FEATURES = 64, 4, 2, 8


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.feed = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.ReLU(), nn.Linear(4 * WIDTH, WIDTH))

    def heads(self, y: Tensor) -> list[Tensor]:
        return [p.unflatten(-1, (HEADS, -1)).transpose(1, 2) for p in self.qkv(self.before(y)).chunk(3, -1)]

    def end(self, y: Tensor, attended: Tensor) -> Tensor:
        y = y + self.out(attended.transpose(1, 2).flatten(2))
        return y + self.feed(self.after(y))

    def forward(self, y: Tensor) -> Tensor:
        return self.end(y, F.scaled_dot_product_attention(*self.heads(y), is_causal=True))


class Network(nn.Module):
    """Windows [batch, time, 8] to 3 numbers for the newest time step."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, 3)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        for block in self.blocks:
            y = block(y)
        return self.head(y[:, -1])


class Cached(nn.Module):
    """A step of the same, from caches [layers, heads, context, 16] that are full."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, made = self.network.first(x), []
        for i, block in enumerate(self.network.blocks):
            q, k, v = block.heads(y)  # type: ignore[operator]
            k, v = torch.cat([keys[i : i + 1, :, 1:], k], 2), torch.cat([values[i : i + 1, :, 1:], v], 2)
            y = block.end(y, F.scaled_dot_product_attention(q, k, v))  # type: ignore[operator]
            made.append((k, v))
        return self.network.head(y[:, -1]), torch.cat([k for k, _ in made]), torch.cat([v for _, v in made])


Call = Callable[[], object]


def onnx_runtime(cached: Cached, context: int) -> Call:
    import onnxruntime

    cache, file = torch.randn(LAYERS, HEADS, context, WIDTH // HEADS), io.BytesIO()
    example = torch.randn(1, 1, FEATURES), cache, cache
    names = ["x", "keys", "values"], ["y", "new_keys", "new_values"]
    torch.onnx.export(cached, example, file, input_names=names[0], output_names=names[1], dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    x, y = example[0].numpy(), np.empty((1, 3), np.float32)
    sides = [[cache.numpy().copy(), cache.numpy().copy()] for _ in range(2)]
    bound = []
    for own, other in (sides, sides[::-1]):
        binding = session.io_binding()
        for name, array in zip(names[0], (x, *own)):
            binding.bind_cpu_input(name, array)
        for name, array in zip(names[1], (y, *other)):
            binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        bound.append(binding)
    turn = iter(range(10**12))
    return lambda: session.run_with_iobinding(bound[next(turn) % 2])


def eager(cached: Cached, context: int) -> Call:
    x = torch.randn(1, 1, FEATURES)
    past = [torch.randn(LAYERS, HEADS, context, WIDTH // HEADS) for _ in range(2)]

    def step() -> None:
        with torch.inference_mode():
            _, past[0], past[1] = cached(x, *past)

    return step


def calls_of(network: Network, context: int) -> dict[str, Call]:
    x, y = torch.randn(1, FEATURES), torch.empty(1, 3)
    found: dict[str, Call] = {}
    for scheme in ("float32", "w8a8"):
        windows = [torch.randn(8, context, FEATURES)] if scheme == "w8a8" else None
        live = rt.stream(network, x, scheme, calibration=windows, context=context)
        found[f"rtaccel {scheme}"] = live.bind(x, out=y)
        for _ in range(context):
            live.step(torch.randn(1, FEATURES))
    window = torch.randn(1, context, FEATURES)
    found["rtaccel float32, the window"] = rt.compile(network, (window,)).bind(window, out=torch.empty(1, 3))
    found["torch eager, cached"] = eager(Cached(network).eval(), context)
    found["ONNX Runtime float32, cached"] = onnx_runtime(Cached(network).eval(), context)
    return found


def check_equal(network: Network, context: int) -> None:
    """The peers compute the same: a step from full caches is the newest output over the window behind one layer."""
    window = torch.randn(1, context + 1, FEATURES)
    with torch.no_grad():
        want = network(window)
        y, keys, values = network.first(window[:, :-1]), [], []
        for block in network.blocks:
            _, k, v = block.heads(y)  # type: ignore[operator]
            y = block(y)
            keys.append(torch.cat([torch.zeros_like(k[:, :, :1]), k], 2))
            values.append(torch.cat([torch.zeros_like(v[:, :, :1]), v], 2))
        got = Cached(network).eval()(window[:, -1:], torch.cat(keys), torch.cat(values))[0]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    live = rt.stream(network, torch.randn(1, FEATURES), context=context + 1)
    for t in range(context + 1):
        got = live.step(window[:, t].contiguous())
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def measured(calls: dict[str, Call], rounds: int, seconds: float = 0.02) -> dict[str, float]:
    """Microseconds of a call: the smallest mean of a round."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            count, begin = 0, time.perf_counter_ns()
            while (now := time.perf_counter_ns()) - begin < seconds * 1e9 or count < 3:
                for _ in range(8):
                    call()
                count += 8
            best[name] = min(best[name], (now - begin) / count / 1e3)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", default="64,256,1024")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network, rows = Network().eval(), dict[str, dict[str, float]]()
    check_equal(network, 40)
    for context in map(int, args.contexts.split(",")):
        for name, us in measured(calls_of(network, context), args.rounds).items():
            rows.setdefault(name, {})[str(context)] = round(us, 2)
    contexts = list(next(iter(rows.values())))
    print("| us a step, context of | " + " | ".join(contexts) + " |")
    print("|---" * (len(contexts) + 1) + "|")
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{us:.2f}" for us in row.values()) + " |")
    if args.json:
        args.json.write_text(json.dumps({"torch": torch.__version__, "us": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
