"""`rt.save`: a compiled model or stream as one file that runs without torch, and without Python."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from rtaccel import __version__
from rtaccel.convert.passes.program import FallbackStep, Program, SubgraphStep
from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.process import whole_file
from rtaccel.core.stage import GraphIO
from rtaccel.deploy import container, gpu_kernels, signing
from rtaccel.deploy.nesting import CONSTANT, LITERAL, written
from rtaccel.deploy.persistent import section
from rtaccel.deploy.prepacked import with_prepacked
from rtaccel.deploy.record import DTYPES, Edge, Head, Recorder, Where
from rtaccel.deploy.results import Computed, Constant, as_returned, otherwise, results_of
from rtaccel.kernels._core.cpu import States, packed_bound, tell
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.gpu.on_cpu import on_cpu
from rtaccel.runtime.inputs import names_of
from rtaccel.runtime.stateful.model import StatefulModel
from rtaccel.runtime.stream import StreamModel


def save(
    model: CompiledModel,
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    states: bool = False,
    prepacked: bool = False,
    kernels: Sequence[str] = (),
    persistent: Sequence[str] = (),
    sign: Any = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Writes a compiled model, or a stream, as one file: `rt.load` runs it without torch, `rta_model_open` without Python.

    The file is a safetensors container with the logical weights and the calls that build the plan: no code, and no kernel's
    name. One file serves every kind of processor; whoever loads it takes the best kernels of his own.

    model: from `rt.compile` or `rt.stream` on the CPU, all of it native. Or a stream, or a model with
        state, on a GPU; its file is one for the CPU. It is not changed.
    name: of the model, by default that of its class.
    input_names: of its arguments, in their order; by default as the model calls them, "x_t" of a stream.
    output_names: of its results, in their order; by default "output", or "output_0", "output_1" and so on.
    states: of a stream, also what it holds now: a loaded stream goes on from there. Else it starts anew.
    prepacked: also weights as this machine's kernels pack them, as `rtaccel.deploy.prepack` adds them:
        loaded sooner where the same kernels are taken, by the same version of rtaccel. The file is about twice as large.
    kernels: also GPU kernels of this model, compiled here for these cards, such as ["sm_90"]: with
        `rtaccel.deploy.gpu_kernels.load_kernels` a process that compiles the model for its GPU needs no compiler. Needs triton.
    persistent: also the persistent kernel of this model, for batches of one, or of this stream, compiled here for these cards,
        with the weights as it reads them: `rta_gpu_open` runs it from C. Needs triton, and NVRTC where it is in CUDA C++.
    sign: an ed25519 private key (32 bytes, the path of a PEM file, or one of the `cryptography` package).
    metadata: further texts for whoever reads the file, such as a verdict: `{"budget": str(latency)}`.

    The file appears whole or not at all. Returns its path. Raises UnsupportedProblem, naming them, for PyTorch calls inside,
    for a model on a GPU, for prepacked=True without such weights, and for persistent= where no kernel holds the model;
    FormatError for a key, metadata, cards or a path that are none, and for a path that cannot be written; BackendUnavailable
    for kernels= or persistent= without their compilers.

    Example:
        >>> import tempfile, torch, rtaccel as rt
        >>> fast = rt.compile(torch.nn.Linear(8, 4).eval(), torch.randn(1, 8))
        >>> file = rt.save(fast, tempfile.mkdtemp() + "/linear.rta")
        >>> rt.load(file)(torch.randn(1, 8).numpy()).shape
        (1, 4)
    """
    target = whole_file.target_of("save", path)
    key = None if sign is None else signing.private_key("save", sign)
    if isinstance(model, (StreamModel, StatefulModel)) and model._options.mode is not None:
        model = on_cpu(model, states)
    sections = {}
    if kernels:
        _whole(model)
        sections[gpu_kernels.TENSOR] = gpu_kernels.section_of(gpu_kernels.kernels_for(model, kernels))
    if persistent:
        _whole(model)
        sections[section.TENSOR] = section.persistent_section(model, persistent)
    whole = artifact_bytes(
        model,
        name=name,
        input_names=input_names,
        output_names=output_names,
        states=states,
        sections=sections,
        metadata=metadata,
    )
    if prepacked:
        whole = with_prepacked(whole)
    if key is not None:
        whole = container.with_signature(whole, key.sign(container.PREAMBLE + container.digest(whole)))
    return whole_file.write("save", target, whole)


def artifact_bytes(
    model: CompiledModel,
    *,
    name: str | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    states: bool = False,
    sections: Mapping[str, bytes] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """The bytes of the file that `save` writes, unsigned. sections: further tensors of bytes, by name: what is for GPUs."""
    step = _whole(model)
    options, program = model._options, model._program
    source = step.source
    assert isinstance(source, SubgraphStep)
    kept = options.plan_states or States()
    pairs = [(choice.stage, choice.impl.name) for choice in step.choices]
    results = results_of(program, source)
    computed = [(name, one) for name, one in zip(program.outputs, results) if isinstance(one, Computed)]
    constants = [one for one in results if isinstance(one, Constant)]
    pairs, ports = as_returned(pairs, [one for _, one in computed], [name for name, _ in computed], program)
    recorder = Recorder([stage for stage, _ in pairs])
    read = dict(zip(source.reads, source.group.inputs))
    arguments = [read[name] for name in program.inputs] if set(read) == set(program.inputs) else source.group.inputs
    tell(recorder, pairs, arguments, ports, kept)
    past = bytes(step.plan.save_state()) if states else b""
    if states and options.plan_states is None:
        raise FormatError("save", "states=True for a model without states", "a stream", "Leave states out.")

    title = name or options.title.removesuffix(", streamed") or "model"
    own = names_of(model._argument_names, program.arguments)
    usual = ["output"] if len(ports) == 1 else [f"output_{i}" for i in range(len(ports))]
    inputs = _edges(_names("input_names", input_names, own, "argument"), arguments)
    outputs = _edges(_names("output_names", output_names, usual, "result"), ports)
    batch, samples = options.batch, [one.samples for _, one in computed]
    joined = [one.joined for _, one in computed]
    head = Head(
        title,
        packed_bound(pairs),
        kept.samples,
        kept.memory,
        batch.lo,
        -1 if batch.hi is None else batch.hi,
        len(past),
    )
    fields = {
        "format": "rtaccel",
        "format_version": str(container.FORMAT_VERSION),
        "name": title,
        "inputs": _described(inputs),
        "outputs": _described(outputs),
        "arguments": written(program.in_spec.children()[0]) or "",
        "results": written(program.out_spec, (_leaf(one) for one in results)) or "",
        **({"result_samples": " ".join(map(str, samples))} if any(samples) else {}),
        **({"result_joined": " ".join(map(str, joined))} if max(joined, default=1) > 1 else {}),
        "streams": str(kept.samples),
        "batch": str(batch),
        "scheme": options.scheme,
        "verified": re.sub(r" in [\d.]+ m?s(?=:)", "", model._verified),  # the same model gives the same file
        "rtaccel": __version__,
        **_checked(metadata or {}),
    }
    plan = recorder.plan(head, inputs, outputs, Where())
    parts = {"plan": container.Part("U8", (len(plan),), plan)}
    # Those that need no padding behind them come first.
    parts |= dict(sorted(recorder.parts.items(), key=lambda item: len(item[1].data) % container.ALIGNMENT != 0))
    if recorder.constants:
        parts["constants"] = container.Part("U8", (len(recorder.constants),), bytes(recorder.constants))
    tensors = [part for part in (one.part() for one in constants) if part is not None]
    parts |= {f"result.{i}": part for i, part in enumerate(tensors)}
    if past:
        parts["states"] = container.Part("U8", (len(past),), past)
    for name, content in (sections or {}).items():
        parts[name] = container.Part("U8", (len(content),), content)
    return container.pack(
        parts, fields, lambda start, end, places: recorder.plan(head, inputs, outputs, Where(start, end, places))
    )


_INSTEAD = {
    "DynamicModel": "A file holds one plan, of one choice of sizes: save model.plan_for(*inputs), one file for each.",
    "GuardedModel": "Its Python reads numbers of the inputs: compile it with specialize=True, for the numbers of the example.",
    "UncapturedModel": "It was not captured, and explain() says why; what runs in Python is in no file.",
    "Cascade": "Save each of its stages by itself.", "Anytime": "Save each of its stages by itself.",
}  # fmt: skip
"""What compiled, and is no single plan -> what can be saved of it."""


def _whole(model: CompiledModel) -> Any:
    """The one native step of a model. Raises UnsupportedProblem where it is not that."""
    if not isinstance(model, CompiledModel):
        raise UnsupportedProblem(
            "save", type(model).__name__, "one compiled model: what rt.compile or rt.stream gave",
            _INSTEAD.get(type(model).__name__, "Compile the model first."),
        )  # fmt: skip
    steps = model._executor.steps
    torch_calls = [s.source.name for s in steps if isinstance(s.source, FallbackStep)]
    if torch_calls:
        raise UnsupportedProblem(
            "save", f"{model._options.title} with PyTorch calls inside: {', '.join(dict.fromkeys(torch_calls))}",
            "native stages only", "See explain() for what each would need.",
        )  # fmt: skip
    if not steps and model._options.device == "cpu":
        raise UnsupportedProblem(
            "save", f"{model._options.title}, whose results are constants or its arguments as they came",
            "a model that computes a result of its arguments", "Return what is computed too; a file gives constants beside it.",
        )  # fmt: skip
    if len(steps) != 1 or not steps[0].native or model._options.device != "cpu":
        kind = "persistent kernel" if model._options.mode == "persistent" else f"{len(steps)} steps"
        raise UnsupportedProblem(
            "save", f"{model._options.title} on {model._options.device}, {kind}", "one native call on the CPU",
            "Compile it with device='cpu' and no backend.",
        )  # fmt: skip
    source = steps[0].source
    if model._executor.direct is None and isinstance(source, SubgraphStep):
        _check_ends(model._program, source, model._options.title)
    return steps[0]


def _check_ends(program: Program, source: SubgraphStep, title: str) -> None:
    """Raises UnsupportedProblem for arguments or results that are not those of the plan; it names them."""
    args, kwargs = program.in_spec.children()
    unused = [name for name in program.inputs if name not in source.reads]
    bad = otherwise(program, source)
    if written(args) is None or written(program.out_spec) is None or kwargs.num_children:
        got, hint = (
            "arguments or results in other containers than tuples, lists and dicts with names",
            "Take and return tensors, nested in such.",
        )
    elif unused or set(source.reads) != set(program.inputs):
        got = f"arguments that the plan does not read: {', '.join(unused or program.inputs)}"
        hint = "Take tensors only, each of them used."
    elif bad:
        got = f"results that are not computed as they are returned: {', '.join(bad)}"
        hint = "Return tensors that are computed, in float32, int64, int32 or bool, with samples as one dimension; or constants."
    else:
        return
    raise UnsupportedProblem("save", f"{title} with {got}", "arguments and results of the plan as they lie", hint)


def _leaf(result: Computed | Constant | None) -> str:
    """Of the text that says how results are nested."""
    if isinstance(result, Constant):
        return CONSTANT if isinstance(result.value, Tensor) else LITERAL + json.dumps(result.value)
    return "."


def _names(which: str, given: Sequence[str] | None, usual: list[str], what: str) -> list[str]:
    if given is None:
        return usual
    listed = given if isinstance(given, (list, tuple)) else ()
    texts = [n for n in listed if isinstance(n, str) and n and "\0" not in n]
    if len(set(texts)) != len(usual) or len(listed) != len(usual):
        raise FormatError(
            "save", f"{which}={given!r:.200}", f"{len(usual)} texts, none twice", f"Name each {what}, in their order."
        )
    return texts


def _edges(names: Sequence[str], ports: Sequence[GraphIO]) -> list[Edge]:
    return [Edge.of(name, port) for name, port in zip(names, ports)]


def _described(edges: Sequence[Edge]) -> str:
    rows: list[dict[str, Any]] = [{"name": e.name, "dtype": e.dtype, "shape": list(e.shape)} for e in edges]
    assert all(e.dtype in (*DTYPES, "bool") for e in edges)
    return json.dumps(rows, separators=(",", ":"))


def _checked(metadata: Mapping[str, str]) -> dict[str, str]:
    own = ("sha256", "ed25519", "format", "format_version", "name", "inputs", "outputs", "arguments", "results",
           "result_samples", "result_joined", "streams")  # fmt: skip
    bad = [k for k, v in metadata.items() if not isinstance(k, str) or not isinstance(v, str) or k in own]
    if bad:
        raise FormatError("save", f"metadata {bad}", f"texts, under names other than {', '.join(own)}", "Rename them.")
    return dict(metadata)
