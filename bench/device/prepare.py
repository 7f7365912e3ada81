"""Building the kernels of rows ahead, without touching the card, into the folder that the rows find them in.

The same as `rtaccel build-kernels`, for the models of the table. It runs in many processes at once, and a kernel that two of them
want is built by one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.device.rows.graphs import calibration, given, scheme_of
from bench.device.rows.graphs import chosen as of_graph
from bench.device.rows.models import network, sequence
from bench.device.rows.sparse import choosing, layer_of
from bench.device.rows.timing import Fields
from rtaccel.core import settings
from rtaccel.runtime.gpu.ahead import kernels_of, persistent_kernels_of

CARD, CLAIMS = "BENCH_DEVICE_CARD", "BENCH_DEVICE_CLAIMS"
"""Environment: "capability,multiprocessors" of the card, 90,132 of an H100; the folder where a process says what it builds."""


def card() -> Any:
    from rtaccel.kernels._persistent.card import Card

    capability, multiprocessors = map(int, os.environ.get(CARD, "90,132").split(","))
    return Card(capability, multiprocessors)


def alone() -> None:
    """As many jobs run as there are cores: each is to use one."""
    torch.set_num_threads(1)


def claimed(path: Path) -> bool:
    """Whether this process is the one that builds a kernel."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def build(wanted: Mapping[str, Any]) -> Fields:
    """Kernels by key, into the folder."""
    from rtaccel.kernels._gpu.cubin_store import CubinStore
    from rtaccel.kernels._gpu.cuda_nvrtc import CudaKernel, compile_cubin
    from rtaccel.kernels._gpu.triton_aot import build as build_triton

    folder, capability, built = settings.kernel_folder(), card().capability, 0
    folder.mkdir(parents=True, exist_ok=True)
    for key, kernel in wanted.items():
        if CubinStore(folder).find(key, capability) is not None or not claimed(Path(os.environ[CLAIMS]) / key):
            continue
        make: Any = compile_cubin if isinstance(kernel, CudaKernel) else build_triton
        CubinStore(folder).put(make(kernel, capability))
        built += 1
    return {"passed": True, "kernels": len(wanted), "built": built}


def null() -> Fields:
    alone()
    from rtaccel.kernels._gpu.triton_launch import spec_key
    from rtaccel.kernels.mlp.triton.persistent import specialize_null

    spec = specialize_null(1, 1)
    return build({spec_key(spec): spec})


def graph(kind: str, name: str, scheme: str, kernel: str = "") -> Fields:
    """Of a model as a graph. kernel: as for its row."""
    alone()
    from rtaccel.kernels._persistent.card import assuming

    model, *inputs = given(kind, name)
    with assuming(card()), of_graph(kernel):
        return build(kernels_of(model, tuple(inputs), scheme_of(scheme), calibration(*inputs)))


def sparse(m: int, n: int, pattern: str, scheme: str, forced: str = "") -> Fields:
    alone()
    model, x = nn.Sequential(layer_of(n, pattern)).eval(), torch.randn(m, n)
    with choosing(forced):
        return build(kernels_of(model, (x,), scheme_of(scheme), [torch.randn(256, n)]))


def persistent(name: str, scheme: str, kernel: str = "") -> Fields:
    from bench.device.rows.streams import chosen
    from rtaccel.kernels._persistent.card import assuming

    alone()
    model, inputs = network(name)
    with assuming(card()), chosen(kernel):
        data = [torch.randn(256, inputs)]
        return build(persistent_kernels_of(model, (torch.randn(1, inputs),), scheme, data, card().capability, False))


def stream(name: str, scheme: str, kernel: str = "", how: str = "") -> Fields:
    from bench.device.rows.streams import chosen
    from rtaccel.kernels._persistent.card import assuming

    alone()
    found = sequence(name)
    example, data = torch.randn(1, found.inputs), [found.window(4)]
    with assuming(card()), chosen(kernel, how):
        return build(persistent_kernels_of(found.model, example, scheme, data, card().capability, True))
