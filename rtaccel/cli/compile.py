"""`rtaccel compile`: a model compiled and checked against torch; its quantized state written to a file."""

from __future__ import annotations

import argparse
import json
from typing import Any

from rtaccel.cli._common import target as _target
from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.process import whole_file

HELP = "compile a model, compare it with torch on its example, and write its quantized state as safetensors"

SUFFIX = ".safetensors"


def configure(parser: argparse.ArgumentParser) -> None:
    _target.add_target(parser)
    parser.add_argument("--out", metavar=f"FILE{SUFFIX}", help="write the state: int8 weights, scales, biases")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    _check(args.out)
    target = _target.load_target(args.target)
    fast = _target.compile_target(target, args)
    if args.out and not hasattr(fast, "explain_lines"):
        raise UnsupportedProblem(
            "compile", f"{target.text}, which was not captured: {fast.reason}", "a model that is compiled as a whole",
            "Leave --out away, or make the model one that torch.export takes.",
        )  # fmt: skip
    found = collect(target, fast)
    if args.out:
        from safetensors.torch import save

        state = {name: tensor.contiguous() for name, tensor in fast.state_dict().items()}
        whole_file.write("compile", args.out, save(state, found["metadata"]))
    if args.json:
        print(json.dumps(found | {"out": args.out}, indent=2))
    else:
        print(_text(found, args.out))
    return 0


def _check(out: str | None) -> None:
    if out is None:
        return
    if whole_file.target_of("compile", out, "--out").suffix != SUFFIX:
        raise FormatError("compile", f"--out {out}", f"a name in {SUFFIX}", "Correct the name.")


def collect(target: _target.Target, fast: Any) -> dict[str, Any]:
    """What was made of the model, as JSON values. errors: relative rms of each output on the example, against torch;
    None where the target is compiled already, or an output is no float tensor."""
    from rtaccel import __version__
    from rtaccel.runtime.compiled import CompiledModel

    captured = hasattr(fast, "explain_lines")
    lines = fast.explain_lines(measure=False) if captured else []
    float_bytes = None
    if not isinstance(target.model, CompiledModel):
        tensors = {t.data_ptr(): t for t in (*target.model.parameters(), *target.model.buffers())}
        float_bytes = sum(t.numel() * t.element_size() for t in tensors.values())
    found: dict[str, Any] = {"target": target.text, "model": type(target.model).__name__}
    found |= {"weight_bytes": fast.weight_bytes, "model_bytes": float_bytes}
    found["kernels"] = [line.kernel for line in lines]
    found["torch"] = [f"{line.name}: {'; '.join(line.reasons)}" for line in lines if line.is_fallback]
    found["not_captured"] = None if captured else fast.reason
    found["errors"] = None if float_bytes is None else _errors(target, fast)
    found["metadata"] = {"rtaccel": __version__, "model": found["model"]}
    return found


def _errors(target: _target.Target, fast: Any) -> list[float | None]:
    import torch
    from torch.utils import _pytree as pytree

    with torch.no_grad():
        pairs = zip(*(pytree.tree_leaves(call(*target.inputs)) for call in (fast, target.model)))
        return [
            float((got - want).square().mean().sqrt() / want.square().mean().sqrt().clamp_min(1e-30))
            if isinstance(want, torch.Tensor) and want.is_floating_point() and want.numel()
            else None
            for got, want in pairs
        ]


def _text(found: dict[str, Any], out: str | None) -> str:
    kernels = {name: found["kernels"].count(name) for name in sorted(set(found["kernels"]))}
    parts = [f"{found['target']} ({found['model']}): {len(found['kernels'])} stages"]
    if found["not_captured"]:
        parts = [f"{found['target']} ({found['model']}): not compiled as a whole: {found['not_captured']}"]
    parts += [f"  {count:3} x {name}" for name, count in kernels.items()]
    parts += [f"  run by PyTorch: {text}" for text in found["torch"]]
    before = "" if found["model_bytes"] is None else f", {found['model_bytes']:,} before"
    parts.append(f"weights {found['weight_bytes']:,} bytes{before}")
    errors = [e for e in found["errors"] or () if e is not None]
    if errors:
        parts.append("error on the example, relative rms of each output: " + ", ".join(f"{e:.2g}" for e in errors))
    if out:
        parts.append(f"State: {out}. Load it into the same model, compiled with the same scheme, with load_state_dict.")
    return "\n".join(parts)
