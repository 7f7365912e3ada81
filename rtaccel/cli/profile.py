"""`rtaccel profile`: where the time of a compiled model's call goes, and whether it meets its budget."""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtaccel.cli._common import budget as _budget
from rtaccel.cli._common import target as _target
from rtaccel.core.process import whole_file

if TYPE_CHECKING:
    from rtaccel.measure.energy import Energy
    from rtaccel.measure.machine.memory import Memory
    from rtaccel.measure.machine.roofline import Roofline
    from rtaccel.measure.result import Latency
    from rtaccel.measure.stages import StageProfile

HELP = "time every stage of a compiled model, its calls against a budget, memory and energy; write reports"

PROFILERS = {"torch": "torch_profiler", "proton": "proton", "nsys": "nsys", "ncu": "ncu"}
"""Name on the command line -> module of _profile."""


def configure(parser: argparse.ArgumentParser) -> None:
    _target.add_target(parser, optional=True)
    parser.set_defaults(usage=parser.error)
    parser.add_argument(
        "--machine-profile",
        metavar="FILE.json",
        help="measure this machine for rt.split on another one, with the stages of TARGET if there is one; nothing else",
    )
    parser.add_argument("--calls", type=int, default=300, help="calls that are timed by stage (%(default)d)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of whole calls (%(default)g)")
    _budget.add_budget(parser)
    parser.add_argument(
        "--with",
        dest="profiler",
        choices=sorted(PROFILERS),
        help="run another profiler on the calls, and show its kernels",
    )
    parser.add_argument("--energy", action="store_true", help="measure joules of a call too (4 s)")
    parser.add_argument("--no-roofline", action="store_true", help="do not measure what the machine can do (1 s)")
    parser.add_argument("--out", metavar="FILE.html", help="write the report")
    parser.add_argument("--png", metavar="FILE.png", help="write its charts (needs matplotlib)")
    parser.add_argument("--markdown", metavar="FILE.md", help="write it for a pull request")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


@dataclass(frozen=True)
class Profile:
    """What was found. results: the bound call, which the budget is for, then the call with fresh results."""

    stages: StageProfile
    results: tuple[Latency, ...]
    roofline: Roofline | None
    memory: Memory
    energy: Energy | None
    kernels: list[Any] | None
    size: dict[str, int]
    plans: list[dict[str, int]]


def run(args: argparse.Namespace) -> int:
    for option in ("out", "png", "markdown", "machine_profile"):
        if getattr(args, option) is not None:
            whole_file.target_of("profile", getattr(args, option), f"--{option.replace('_', '-')}")
    if args.machine_profile:
        return _machine(args)
    if args.target is None:
        args.usage("the following arguments are required: TARGET, or --machine-profile FILE")
    budget = _budget.parse_budget(args.budget)
    profiler = _profiler(args.profiler) if args.profiler else None
    target = _target.load_target(args.target)
    fast = _target.compile_target(target, args)
    found = _collect(args, target, fast, budget, profiler)
    command = shlex.join(_words(args))
    written = _write(args, target, found, command)
    if args.json:
        print(json.dumps(_as_json(target, found, command), indent=2, allow_nan=False))
    else:
        print(_text(args, found, written))
    return _budget.exit_code([found.results[0].verdict], args.allow_undecided)


def _machine(args: argparse.Namespace) -> int:
    """Writes the profile of this machine."""
    from rtaccel.cli._common.progress import bar
    from rtaccel.serve.split.machine_profile import MachineProfile

    target = None if args.target is None else _target.load_target(args.target)
    fast = None if target is None else _target.compile_target(target, args)
    with bar("measuring this machine", 1, "parts") as advance:
        found = MachineProfile.here(fast, target.inputs if target else (), min(args.calls, 20))
        advance("probes")
    path = found.save(args.machine_profile)
    print(json.dumps(found.to_dict(), indent=2, allow_nan=False) if args.json else f"{path}: {found}")
    return 0


def _profiler(name: str) -> Any:
    """The module, if it can run here. Raises BackendUnavailable with the reason before anything is measured."""
    from rtaccel.cli._profile.job import require

    module = importlib.import_module(f"rtaccel.cli._profile.{PROFILERS[name]}")
    require(name, module.unavailable(), module.REMEDY)
    return module


def _collect(args: argparse.Namespace, target: _target.Target, fast: Any, budget: Any, profiler: Any) -> Profile:
    from rtaccel.cli._common.progress import bar
    from rtaccel.cli._profile.job import Job
    from rtaccel.measure.energy import measure_energy
    from rtaccel.measure.latency import measure
    from rtaccel.measure.machine.memory import peak_memory
    from rtaccel.runtime.inspection.cpu_roofline import cpu_roofline
    from rtaccel.runtime.inspection.profile import plan_sizes, profile_stages

    wanted = {"stages": True, "calls": True, "roofline": not args.no_roofline and args.device == "cpu"}
    wanted |= {"energy": args.energy, str(args.profiler): profiler is not None}
    roofline = energy = kernels = None
    with bar("profiling", sum(wanted.values()), "parts") as advance:
        stages = profile_stages(fast, target.inputs, args.calls)
        advance("stages")
        calls = _calls(fast, target.inputs, args.device)
        memory = peak_memory(calls["call"])
        results = tuple(
            measure(
                call, budget=None if i else budget, seconds=args.seconds, name=name, size_bytes=fast.weight_bytes
            )
            for i, (name, call) in enumerate(calls.items())
        )  # fmt: skip
        advance("whole calls")
        if wanted["roofline"]:
            roofline = cpu_roofline()
            advance("what the machine can do")
        if args.energy:
            energy = measure_energy(next(iter(calls.values())), device=args.device)
            advance("energy")
        if profiler is not None:
            with tempfile.TemporaryDirectory() as folder:
                words = (target.text, *_target.compile_words(args))
                kernels = profiler.run(Job(words, fast, target.inputs, args.calls, Path(folder)))
            advance(args.profiler)
    return Profile(
        stages, results, roofline, memory, energy, kernels, {"weight_bytes": fast.weight_bytes}, plan_sizes(fast)
    )


def _calls(fast: Any, inputs: tuple[Any, ...], device: str) -> dict[str, Callable[[], object]]:
    """Ways to call it, the fastest first. On a GPU each waits for the result, as a caller who needs it does."""
    import torch

    with torch.no_grad():
        bound = fast.bind(*inputs, out=fast(*inputs))
    if device != "cuda":
        return {"bound call": bound, "call": lambda: fast(*inputs)}

    def waiting(call: Callable[[], object]) -> Callable[[], object]:
        def whole() -> None:
            call()
            torch.cuda.synchronize()

        return whole

    return {"bound call": waiting(bound), "call": waiting(lambda: fast(*inputs))}


def _words(args: argparse.Namespace) -> list[str]:
    words = ["rtaccel", "profile", args.target, *_target.compile_words(args)]
    for name, default in (("calls", 300), ("seconds", 1.0), ("out", None), ("png", None), ("markdown", None)):
        if getattr(args, name) != default:
            words += [f"--{name}", f"{getattr(args, name)}"]
    words += [word for pair in args.budget for word in ("--budget", pair)]
    words += ["--with", args.profiler] if args.profiler else []
    return words + ["--energy"] * args.energy + ["--no-roofline"] * args.no_roofline


def _facts(found: Profile) -> list[tuple[str, str]]:
    from rtaccel.measure.report import bytes_text

    grown, peak = found.memory.grown_bytes, found.memory.peak_bytes
    rows = [("Weights", bytes_text(found.size["weight_bytes"]))]
    for number, plan in enumerate(found.plans, 1):
        sizes = ", ".join(f"{name.removesuffix('_bytes')} {bytes_text(size)}" for name, size in plan.items())
        rows.append((f"Native plan {number}" if len(found.plans) > 1 else "Native plan", sizes))
    if peak is None or grown is None:
        rows.append(("Peak memory of the process", f"not measured: {found.memory.reason}"))
    else:
        rows.append(
            ("Peak memory of the process", f"{bytes_text(peak)}, {bytes_text(grown)} more than before the calls")
        )
    if found.memory.device_bytes is not None:
        rows.append(("Peak memory of the GPU", bytes_text(found.memory.device_bytes)))
    if found.energy is not None:
        rows.append(("Energy", str(found.energy)))
    return rows


def _write(args: argparse.Namespace, target: _target.Target, found: Profile, command: str) -> list[str]:
    from rtaccel.measure.report import write_report
    from rtaccel.measure.report_markdown import render_markdown
    from rtaccel.measure.report_png import write_png

    title, facts = f"Profile of {target.text}", _facts(found)
    shared: dict[str, Any] = {"title": title, "stages": found.stages}
    if args.out:
        write_report(args.out, found.results, command=command, roofline=found.roofline, facts=facts, **shared)
    if args.markdown:
        text = render_markdown(found.results, command=command, facts=facts, **shared)
        whole_file.write("profile", args.markdown, text)
    if args.png:
        write_png(args.png, found.results, **shared)
    return [path for path in (args.out, args.markdown, args.png) if path]


def _text(args: argparse.Namespace, found: Profile, written: list[str]) -> str:
    from rtaccel.cli._profile.kernels import table

    parts = [str(found.stages), *map(str, found.results)]
    if found.kernels is not None:
        parts.append(f"{args.profiler}: own time by kernel or operator\n{table(found.kernels)}")
    width = max(len(label) for label, _ in _facts(found))
    parts.append("\n".join(f"{label.ljust(width)}  {text}" for label, text in _facts(found)))
    parts += [f"Report: {path}" for path in written]
    return "\n\n".join(parts)


def _as_json(target: _target.Target, found: Profile, command: str) -> dict[str, Any]:
    from rtaccel.cli._profile.kernels import as_json

    rows = [result.to_dict() for result in found.results]
    environment, *_ = [row.pop("environment") for row in rows]
    return {
        "target": target.text,
        "command": command,
        "stages": found.stages.to_dict(),
        "results": rows,
        "verdict": found.results[0].verdict,
        "roofline": None if found.roofline is None else found.roofline.to_dict(),
        **found.size,
        "plans": found.plans,
        "memory": found.memory.to_dict(),
        "energy": None if found.energy is None else found.energy.to_dict(),
        "kernels": None if found.kernels is None else as_json(found.kernels),
        "environment": environment,
    }
