"""Writes files for the fuzzer of the loader to begin with: every operator, every kind of stage that `compile` makes, streams.

    python tests/deploy/write_seeds.py build/seeds [--generated N]
    RTACCEL_CPU_ISA=portable python tests/deploy/write_seeds.py build/seeds --packed portable

Small ones: most of what is changed in them is then a number that something is computed from.
"""

from __future__ import annotations

import argparse
import contextlib
import struct
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2]))

import rtaccel as rt
from rtaccel.core.errors import RtaccelError
from rtaccel.core.registry import impls, operators
from rtaccel.core.stage import GraphIO, Stage
from rtaccel.deploy import container
from rtaccel.deploy.persistent import section as persistent_section
from rtaccel.deploy.prepacked import with_prepacked
from rtaccel.deploy.record import Edge, Head, Recorder, Where
from rtaccel.deploy.save import artifact_bytes
from rtaccel.kernels._core.cpu import States, packed_bound, tell
from rtaccel.kernels._gpu.cubin_store import Cubin
from rtaccel.kernels.sparse_linear import contract as sparse_linear
from rtaccel.runtime.gpu import ahead, persistent_chains, persistent_choice, persistent_stacks
from tests.support import stages
from tests.support.generators import streams
from tests.support.generators.models import FAMILIES, built, inputs_of, models, packed

LARGEST = 24 << 10


def of_stage(stage: Stage, kernel: str) -> bytes:
    """A file of one stage, as `rt.save` writes one of a model."""
    pairs = [(stage, kernel)]
    recorder = Recorder([stage])
    inputs = list({v.name: GraphIO.matrix(v) for v in stage.inputs}.values())
    outputs = [GraphIO.matrix(v) for v in stage.outputs if v.name not in {p.value.name for p in inputs}]
    known = {p.value.name for p in (*inputs, *outputs)}
    assert all(v.name in known for v in stage.outputs)
    tell(recorder, pairs, inputs, outputs, States())
    edges = [[Edge.of(p.value.name, p) for p in ports] for ports in (inputs, outputs)]
    head = Head(stage.op, packed_bound(pairs), 0, -1, 0, -1)
    plan = recorder.plan(head, *edges, Where())
    parts = {"plan": container.Part("U8", (len(plan),), plan), **recorder.parts}
    if recorder.constants:
        parts["constants"] = container.Part("U8", (len(recorder.constants),), bytes(recorder.constants))
    fields = {"format": "rtaccel", "format_version": str(container.FORMAT_VERSION), "name": stage.op}
    return container.pack(
        parts, fields, lambda start, end, places: recorder.plan(head, *edges, Where(start, end, places))
    )


def of_operators(each: int) -> Iterator[tuple[str, bytes]]:
    """Of every operator that has a native kernel, the smallest conformance cases, and each kind of them."""
    for operator in operators().values():
        kinds: dict[tuple[object, ...], list[tuple[str, bytes]]] = {}
        native = impls("cpu", operator.name)
        for case in operator.cases() if native else ():
            stage = case.stage
            with contextlib.suppress(RtaccelError, AssertionError, KeyError):
                content = of_stage(stage, native[0].name)
                kind = (
                    tuple(v.dtype for v in (*stage.inputs, *stage.outputs)),
                    tuple(sorted(stage.tensors)),
                    *(
                        str(stage.attrs.get(a))
                        for a in ("layout", "kind", "mode", "order", "stream", "groups", "gives")
                    ),
                )
                kinds.setdefault(kind, []).append((case.id, content))
        for number, found_cases in enumerate(kinds.values()):
            found_cases.sort(key=lambda pair: len(pair[1]))
            for i, (label, content) in enumerate(found_cases[:each]):
                yield f"{operator.name}-{number}-{i}{'-lengths' * ('lengths' in label)}", content


def of_models() -> Iterator[tuple[str, bytes]]:
    for name, scheme in stages.pairs():
        with contextlib.suppress(RtaccelError):  # where PyTorch calls are inside
            yield f"model-{name}-{scheme}", artifact_bytes(stages.shared(name, scheme, 0))


def of_streams() -> Iterator[tuple[str, bytes]]:
    models = {
        "gru": (torch.nn.GRU(3, 8, batch_first=True), (2, 3)),
        "lstm": (torch.nn.LSTM(3, 5, 2, batch_first=True), (1, 3)),
        "lstm, head": (streams.Recurrent("lstm", 4, 5, 1, True), (3, 4)),
        "causal": (streams.Causal(4, 6, (1, 2), True), (2, 4)),
    }
    for name, (model, step) in models.items():
        for scheme in ("float32", "w8a8", "w4a8"):
            with contextlib.suppress(RtaccelError):
                data = [torch.randn(step[0], 12, step[1]) for _ in range(3)]
                data = [x.transpose(1, 2).contiguous() for x in data] if name == "causal" else data
                calibration = data if scheme != "float32" else None
                live = rt.stream(model.eval(), torch.randn(*step), scheme=scheme, calibration=calibration)
                live.step(torch.randn(*step))
                yield f"stream-{name}-{scheme}", artifact_bytes(live)
                yield f"stream-{name}-{scheme}-states", artifact_bytes(live, states=True)


def of_packed_weights() -> Iterator[tuple[str, bytes]]:
    net = torch.nn.Sequential(torch.nn.Linear(5, 20), torch.nn.ReLU(), torch.nn.Linear(20, 3)).eval()
    for scheme in ("float32", "w8a8", "w8a16", "w4a16", "w4a8", "bfloat16"):
        calibration = [torch.randn(32, 5)] if scheme == "w8a8" else None
        fast = rt.compile(net, torch.randn(1, 5), scheme, calibration=calibration)
        yield f"prepacked-{scheme}", with_prepacked(artifact_bytes(fast))
    for kind in ("gru", "lstm"):
        for scheme in ("float32", "w8a8", "w4a8"):
            calibration = None if scheme == "float32" else [torch.randn(4, 9, 4)]
            recurrent = streams.Recurrent(kind, 4, 5, 1, True).eval()
            live = rt.stream(recurrent, torch.randn(2, 4), scheme, calibration=calibration)
            yield f"prepacked-{kind}-{scheme}", with_prepacked(artifact_bytes(live, states=True))
    layers = {
        "conv": (torch.nn.Conv1d(3, 5, 3), (3, 9)),
        "depthwise": (torch.nn.Conv2d(5, 5, 3, groups=5), (5, 5, 5)),
        "winograd": (torch.nn.Conv2d(8, 5, 3, padding=1), (8, 16, 16)),
    }
    for name, (layer, shape) in layers.items():
        for scheme in ("float32", "w8a8"):
            calibration = [torch.randn(8, *shape)] if scheme == "w8a8" else None
            fast = rt.compile(layer.eval(), torch.randn(1, *shape), scheme, calibration=calibration)
            yield f"prepacked-{name}-{scheme}", with_prepacked(artifact_bytes(fast))
    for layout in sparse_linear.LAYOUTS:
        for scheme in ("float32", "static", "dynamic"):
            stage = sparse_linear.make_stage(33, 9, scheme, layout, 0.3)
            kernel = impls("cpu", "sparse_linear")[0].name  # a file has no kernel's name
            yield f"prepacked-sparse-{layout.replace(':', '')}-{scheme}", with_prepacked(of_stage(stage, kernel))


def cubin_of_nothing(capability: int) -> bytes:
    """An ELF file as the driver's loader finds one, without any code."""
    head = bytearray(128)
    struct.pack_into("<4s", head, 0, b"\x7fELF")
    struct.pack_into("<H", head, 18, 190)
    struct.pack_into("<QQIHHHHHH", head, 32, 0, 64, capability, 64, 0, 0, 64, 1, 0)
    struct.pack_into("<I", head, 64 + 4, 8)  # a section without bytes
    return bytes(head)


def of_persistent_kernels() -> Iterator[tuple[str, bytes]]:
    """Whose code is none: what is stored beside it is as in any other."""

    def build(kernel: Any, capability: int) -> Cubin:
        of = (kernel.parameters, kernel.num_warps, kernel.shared_bytes, 0, 0, kernel.cooperative)
        return Cubin(
            kernel.key,
            capability,
            kernel.name,
            kernel.entry,
            *of,
            "nothing",
            cubin_of_nothing(capability),
            kernel.cluster,
        )

    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval()
    fast = rt.compile(net, torch.randn(1, 3), "w8a8", calibration=[torch.randn(32, 3)])
    with patch.object(ahead, "build", build), persistent_choice.only(persistent_chains.CUDA):
        yield "persistent-chain", artifact_bytes(fast, sections=persistent_sections(fast, ["sm_90"]))
        yield "persistent-chains", artifact_bytes(fast, sections=persistent_sections(fast, ["sm_80", "sm_90"]))
    columns = torch.tensor([30.0, 1.0, 0.03])
    with torch.no_grad():
        net[0].weight /= columns
    wide = rt.compile(net, torch.randn(1, 3), "w8a8", calibration=[torch.randn(256, 3) * columns])
    with patch.object(ahead, "build", build), persistent_choice.only(persistent_chains.CUDA):
        yield "persistent-scaled", artifact_bytes(wide, sections=persistent_sections(wide, ["sm_90"]))
    live = rt.stream(
        torch.nn.LSTM(3, 5, 2, batch_first=True).eval(), torch.randn(1, 3), "w8a8", calibration=[torch.randn(4, 9, 3)]
    )
    with patch.object(ahead, "build", build), persistent_choice.only(persistent_stacks.CUDA):
        yield "persistent-stream", artifact_bytes(live, sections=persistent_sections(live, ["sm_90"]))


def persistent_sections(model: Any, cards: list[str]) -> dict[str, bytes]:
    return {persistent_section.TENSOR: persistent_section.persistent_section(model, cards)}


def of_generated(count: int) -> Iterator[tuple[str, bytes]]:
    made: list[bytes] = []

    @settings(max_examples=count, database=None, deadline=None, derandomize=True, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.sampled_from(FAMILIES).flatmap(models))
    def generate(d: Any) -> None:
        with contextlib.suppress(RtaccelError, RuntimeError):
            fast = rt.compile(built(d), packed(d, inputs_of(d, d["example"])), verify=False)
            made.append(artifact_bytes(fast))

    generate()
    for i, content in enumerate(made):
        yield f"generated-{i}", content


def written(each: int, generated: int) -> Iterator[tuple[str, bytes]]:
    """(name, content) of all of them."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in (
            *of_operators(each), *of_models(), *of_streams(), *of_packed_weights(), *of_persistent_kernels(),
            *of_generated(generated),
        ):  # fmt: skip
            if len(content) <= LARGEST:
                yield name, content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--generated", type=int, default=150, help="models of the generators")
    parser.add_argument("--each", type=int, default=2, help="conformance cases of each kind")
    parser.add_argument(
        "--packed", metavar="NAME", help="only files with packed weights, for this set's kernels; NAME ends theirs"
    )
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    count = 0
    if options.packed:
        files = [(f"{name}-{options.packed}", content) for name, content in of_packed_weights()]
    else:
        files = written(options.each, options.generated)
    for name, content in files:
        (options.folder / (name.replace(" ", "_").replace(",", "") + ".rta")).write_bytes(content)
        count += 1
    print(f"{count} files in {options.folder}")


if __name__ == "__main__":
    main()
