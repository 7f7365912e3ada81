"""ONNX files of published packages: compiled, beside ONNX Runtime in the same interleaved run.

    python -m bench.onnx_files [--calls 400]

Bound calls on both sides, one thread. A file whose package is absent is left out, and named.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

import rtaccel as rt
from tests.support.onnx_files import FILES, OnnxFile
from tests.support.onnx_peer import flat, session


def measured(file: OnnxFile, calls: int) -> str:
    """A row of the table: stages, and minimum and median of both, in us."""
    path = file.find()
    if path is None:
        return f"| {file.name} | needs the package {file.package.replace('_', '-')} |"
    feeds = file.feeds(np.random.default_rng(0))
    peer = session(str(path))
    binding = peer.io_binding()
    names = [entry.name for entry in peer.get_inputs()]
    whole = {**feeds, **{name: np.array(value, np.int64) for name, value in file.fixed.items()}}
    for name in names:
        binding.bind_cpu_input(name, whole[name])
    results = peer.run(None, {name: whole[name] for name in names})
    for entry, result in zip(peer.get_outputs(), results):
        binding.bind_output(entry.name, "cpu", 0, result.dtype, result.shape, result.ctypes.data)
    module = rt.from_onnx(path, fixed=file.fixed)
    given = tuple(torch.from_numpy(feeds[name]) for name in module.meta["onnx"]["inputs"])
    fast = rt.compile(module, given)
    out = fast(*given)
    for have, want in zip(flat(out), results):
        np.testing.assert_allclose(have.numpy(), want, rtol=0, atol=1e-5 * max(np.abs(want).max(), 1e-30))
    step = fast.bind(*given, out=out)
    ours, theirs = [], []
    start = time.perf_counter()
    for _ in range(calls):
        a = time.perf_counter()
        step()
        b = time.perf_counter()
        peer.run_with_iobinding(binding)
        c = time.perf_counter()
        ours.append(b - a)
        theirs.append(c - b)
        if c - start > 5 and len(ours) >= 12:
            break
    own, count = fast.native
    times = [f"{1e6 * f(t):,.1f}" for t in (ours, theirs) for f in (np.min, np.median)]
    return f"| {file.name} | {own} of {count} | " + " | ".join(times) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=400, help="at most so many of each, or 5 s")
    calls = parser.parse_args().calls
    torch.set_num_threads(1)
    print("| file | stages native | rtaccel min | median | ONNX Runtime min | median |\n|---|---|---|---|---|---|")
    for file in FILES:
        print(measured(file, calls), flush=True)


if __name__ == "__main__":
    main()
