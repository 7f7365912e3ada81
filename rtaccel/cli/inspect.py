"""`rtaccel inspect`: what a kernel's code costs, read without running it and without a GPU."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from rtaccel.core.errors import FormatError, UnsupportedProblem

if TYPE_CHECKING:
    from rtaccel.core.registry import Impl
    from rtaccel.core.stage import Problem

HELP = (
    "registers, spills, shared memory, occupancy, instructions, bytes and the roofline floor of a kernel, without a GPU"
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "kernel", metavar="KERNEL", help="operator/kernel, such as linear/triton_gemv or linear/cpu_avx2"
    )
    parser.add_argument("--arch", default="sm_90", help="to compile a GPU kernel for (%(default)s)")
    parser.add_argument(
        "--case", nargs="+", default=[], metavar="KEY=VALUE",
        help="the problem: rows and the arguments of the operator's make_stage, such as rows=1 k=1024 n=1024 "
        "scheme=static; without it, the conformance case that moves most",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    found, rows = _inspect(args)
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    width = max(len(label) for label, _ in rows)
    print("\n".join(f"{label.ljust(width)}  {text}".rstrip() for label, text in rows))
    return 0


def _inspect(args: argparse.Namespace) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """JSON values, and rows for people."""
    impl = _find(args.kernel)
    if impl is None:
        return _form(args)
    if impl.backend == "cpu":
        from rtaccel.cli._inspect import cpu

        if args.case:
            raise UnsupportedProblem("inspect", f"--case for {args.kernel}", "none: C++ code is the same for every size",
                                     "Leave it out; `rtaccel bench` times cases.")  # fmt: skip
        seen = cpu.inspect_cpu(impl)
        return seen.to_dict(), cpu.describe(seen)
    if impl.backend != "triton":
        raise UnsupportedProblem("inspect", f"{args.kernel} of backend {impl.backend}", "a Triton or a C++ kernel",
                                 "Others have no compiled code to read here.")  # fmt: skip
    from rtaccel.cli._inspect import gpu
    from rtaccel.cli._inspect.cards import card_of

    compiled = gpu.inspect_triton(impl, _problem(impl, args.case), card_of(args.arch))
    return compiled.to_dict(), gpu.describe(compiled)


def _form(args: argparse.Namespace) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """A form that a Triton kernel declares, by its name."""
    from rtaccel.cli._inspect import gpu
    from rtaccel.cli._inspect.cards import card_of
    from rtaccel.kernels._gpu.triton_aot import specializations

    if args.case:
        raise UnsupportedProblem(
            "inspect", f"--case for {args.kernel}", "none: the form has its sizes", "Leave it out."
        )
    spec = next(spec for spec in specializations() if spec.name == args.kernel)
    compiled = gpu.inspect_form(spec, card_of(args.arch))
    return compiled.to_dict(), gpu.describe(compiled)


def _find(text: str) -> Impl | None:
    """None for the name of a declared form. Raises FormatError with the names that there are."""
    import importlib.util

    from rtaccel.backends import backends
    from rtaccel.core.registry import impls

    found: dict[str, Impl] = {}
    for name, backend in backends().items():
        compiles = name == "triton" and importlib.util.find_spec("triton") is not None
        if compiles or backend.unavailable() is None:  # Triton compiles without a card
            found |= {f"{impl.op}/{impl.name}": impl for impl in impls(name)}
    if text in found:
        return found[text]
    if importlib.util.find_spec("triton") is not None:
        from rtaccel.kernels._gpu.triton_aot import specializations

        if any(spec.name == text for spec in specializations()):
            return None
    op = text.partition("/")[0]
    near = sorted(name for name in found if name.startswith(f"{op}/")) or sorted(found)
    raise FormatError("inspect", repr(text), "one of " + ", ".join(near), "Name operator/kernel.")


def _problem(impl: Impl, pairs: list[str]) -> Problem:
    """From --case, or the conformance case that moves most among those that the kernel takes."""
    from rtaccel.cli._common.cases import make_stage, parse_case
    from rtaccel.core.registry import operator
    from rtaccel.core.stage import Problem

    if pairs:
        rows, arguments = parse_case(pairs)
        return Problem.of(make_stage(impl.op, arguments), rows, "cuda")
    problems = [
        Problem.of(case.stage, case.make(0)[0].shape[0], "cuda") for case in operator(impl.op).cases()
    ]  # fmt: skip
    taken = [problem for problem in problems if problem.rows and impl.supports(problem) is None]
    return max(taken, key=lambda problem: operator(impl.op).cost(problem).bytes)
