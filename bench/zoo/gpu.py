"""What of a network would be launches of PyTorch's in a graph on a GPU, counted without a card.

Stages are those of a plan for device="cuda" in float32. A stage that no Triton kernel takes is computed by plain torch there, in
one kernel or in several; so is a call that falls back. Large products and long transforms are left to cuBLAS and cuFFT by
choice, and counted apart.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.zoo.entry import Entry, NotInstalled, entries

LIBRARIES = ("to cuBLAS", "to cuFFT")
"""What a kernel says that is not for a stage because of its size."""


@dataclass(frozen=True)
class Count:
    """stages: of the plan. triton: of them, in Triton. library: cuBLAS's and cuFFT's, by choice. torch: operator -> stages of
    plain torch. calls: that fall back. reasons: of stages in torch, one for each operator."""

    stages: int
    triton: int
    library: int
    torch: dict[str, int]
    calls: int
    reasons: dict[str, str]


def count(entry: Entry) -> Count:
    """Raises what capturing the network raises."""
    from torch.utils import _pytree as pytree

    from rtaccel.convert.batch_mode import choose_batch_mode
    from rtaccel.convert.frontend.export import check_example
    from rtaccel.convert.lower import lower
    from rtaccel.convert.passes.program import SubgraphStep
    from rtaccel.core.registry import impls
    from rtaccel.core.scheme import SchemeMap
    from rtaccel.core.stage import Problem
    from rtaccel.plan.fuse import fuse

    model, inputs = entry.build()
    args = check_example(model, inputs)
    captured, graph = choose_batch_mode(model, args)
    program = lower(captured, graph, SchemeMap("float32"), None, equalize=False)
    rows = max(1, program.samples(pytree.tree_leaves(args)))
    stages = triton = library = calls = 0
    left: Counter[str] = Counter()
    reasons: dict[str, str] = {}
    for step in program.steps:
        if not isinstance(step, SubgraphStep):
            calls += 1
            continue
        group = replace(step.group, stages=fuse(step.group.stages, [p.value for p in step.group.outputs], rows))
        for stage in group.stages:
            stages += 1
            problem = Problem.of(stage, rows, "cuda")
            refused = [impl.supports(problem) for impl in impls("triton", stage.op)]
            if None in refused:
                triton += 1
            elif any(word in str(reason) for reason in refused for word in LIBRARIES):
                library += 1
            else:
                left[stage.op] += 1
                own = [str(reason) for reason in reversed(refused)] or ["has no Triton kernel"]
                reasons.setdefault(stage.op, own[0])
    return Count(stages, triton, library, dict(left), calls, reasons)


def count_all(
    chosen: Sequence[Entry], record: dict[str, Any], save: Callable[[dict[str, Any]], None], limit: float
) -> None:
    """Each network in a process of its own, which may take `limit` seconds."""
    networks = record.setdefault("networks", {})
    for entry in chosen:
        command = [sys.executable, "-m", "bench.zoo.gpu", entry.name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
            found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"failed": _last(done.stderr)}
        except subprocess.TimeoutExpired:
            found = {"failed": f"more than {limit:g} s"}
        networks[entry.name] = found
        save(record)
        print(entry.name, line(found), flush=True)


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["ended without a word"])[-1][:200]


def line(found: dict[str, Any]) -> str:
    if "failed" in found:
        return f"not counted: {found['failed']}"
    rest = ", ".join(f"{n} {op}" for op, n in sorted(found["torch"].items(), key=lambda item: -item[1]))
    counted = f"{found['triton']} of {found['stages']} stages in Triton, {found['library']} of libraries"
    return f"{counted}, {found['calls']} calls of torch; {rest or 'none left'}"


HEAD = """# The zoo on a GPU, counted

Written by `python -m bench.zoo gpu`; {networks} networks, in float32. Nothing was run on a card: these are the stages of the plan
that `rt.compile(..., device="cuda")` makes, and whether a Triton kernel takes them. What none takes is computed by PyTorch's own
kernels, in the same CUDA graph.

Of {stages} stages {triton} are in Triton and {left} are PyTorch's, and {calls} calls fall back. {library} more are products
of cuBLAS or transforms of cuFFT, which are faster there by their size. {whole} networks have no kernel of PyTorch's.

| network | stages | in Triton | of cuBLAS or cuFFT | PyTorch's stages | calls that fall back |
|---|---|---|---|---|---|
"""
LEFT = """
## What is left

| operator | stages | why |
|---|---|---|
"""


NOT_COUNTED = """
## Not counted

| network | why |
|---|---|
"""


def shortened(why: str) -> str:
    """What a typed error got, without what was expected."""
    return why.rpartition("Error: ")[2].removeprefix("rtaccel.core.errors.").partition(";")[0].replace("|", "/")


def page(record: dict[str, Any]) -> str:
    counted = {name: found for name, found in record["networks"].items() if "failed" not in found}
    total = {word: sum(found[word] for found in counted.values()) for word in ("stages", "triton", "library", "calls")}
    left, reasons = Counter[str](), dict[str, str]()
    for found in counted.values():
        left.update(found["torch"])
        reasons |= found["reasons"]
    whole = sum(not found["torch"] and not found["calls"] for found in counted.values())
    text = HEAD.format(networks=len(counted), left=sum(left.values()), whole=whole, **total)
    for name, found in counted.items():
        rest = ", ".join(f"{n} {op}" for op, n in sorted(found["torch"].items()))
        numbers = " | ".join(str(found[word] or "-") for word in ("stages", "triton", "library"))
        text += f"| {name} | {numbers} | {rest or '-'} | {found['calls'] or '-'} |\n"
    if left:
        text += LEFT + "".join(f"| {op} | {n} | {reasons[op]} |\n" for op, n in left.most_common())
    failed = {name: found["failed"] for name, found in record["networks"].items() if "failed" in found}
    if failed:
        text += NOT_COUNTED + "".join(f"| {name} | {shortened(why)} |\n" for name, why in failed.items())
    return text


def main() -> None:
    import warnings

    import torch

    from bench.zoo.packages import offline

    offline()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    try:
        print(json.dumps(asdict(count(entries()[sys.argv[1]]))))
    except NotInstalled as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
