"""What of a network is launched by PyTorch in a graph on a GPU, counted without a card from the captured graph (captured.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.zoo.entry import Entry, NotInstalled, entries

FLOAT32, INT8 = "float32", "w8a8"


@dataclass(frozen=True)
class Count:
    """stages: of the plan. triton: launches of Triton's kernels in its graph. library, torch: calls of PyTorch in it that are
    cuBLAS's, cuDNN's or cuFFT's, and others -> how often. copies: nodes that copy memory as it lies. calls: that fall back, each
    of which ends a graph. reasons: of stages in torch, one for each operator. specialized: its Python reads numbers of its
    inputs, and it was compiled with specialize=True."""

    stages: int
    triton: int
    library: dict[str, int]
    torch: dict[str, int]
    copies: int
    calls: int
    reasons: dict[str, str]
    specialized: bool = False


def count(entry: Entry, scheme: str = FLOAT32) -> Count:
    """scheme: W8A8 has static scales, of the entry's own inputs. Raises what capturing the network raises."""
    from torch.utils import _pytree as pytree

    from bench.zoo.captured import Nodes, capture, taken
    from rtaccel.convert.batch_mode import choose_batch_mode
    from rtaccel.convert.frontend.exported.example import check_example
    from rtaccel.convert.lower import lower
    from rtaccel.convert.passes.program import SubgraphStep
    from rtaccel.core.errors import UnsupportedProblem
    from rtaccel.core.scheme import W8A8, SchemeMap

    model, inputs = entry.build()
    args = check_example(model, inputs)
    specialized = False
    try:
        captured, graph = choose_batch_mode(model, args)
    except UnsupportedProblem as error:
        specialized = "specialize=True" in str(error)
        if not specialized:
            raise
        captured, graph = choose_batch_mode(model, args, specialize=True)
    plain = scheme == FLOAT32
    chosen = SchemeMap(scheme if plain else W8A8(activation="static"))
    program = lower(captured, graph, chosen, None if plain else [args], equalize=False)
    rows = max(1, program.samples(pytree.tree_leaves(args)))
    nodes, calls, stages = Nodes(), 0, 0
    reasons: dict[str, str] = {}
    for step in program.steps:
        if not isinstance(step, SubgraphStep):
            calls += 1
            continue
        found, own = capture(step.group, rows)
        nodes.add(found)
        stages += len(own)
        for stage in own:
            impl, refused = taken(stage, rows)
            if impl is None:
                sizes = [reason for reason in refused if any(name in reason for name in ("cuBLAS", "cuFFT"))]
                reasons.setdefault(stage.op, (sizes or refused[::-1] or ["has no Triton kernel"])[0])
    launches = sum(nodes.triton.values())
    return Count(stages, launches, dict(nodes.library), dict(nodes.torch), nodes.copies, calls, reasons, specialized)


def count_all(
    chosen: Sequence[Entry],
    record: dict[str, Any],
    save: Callable[[dict[str, Any]], None],
    limit: float,
    scheme: str = FLOAT32,
) -> None:
    """Each network in a process of its own, which may take `limit` seconds."""
    networks = record.setdefault(key_of(scheme), {})
    for entry in chosen:
        command = [sys.executable, "-m", "bench.zoo.gpu", entry.name, scheme]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
            found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"failed": _last(done.stderr)}
        except subprocess.TimeoutExpired:
            found = {"failed": f"more than {limit:g} s"}
        networks[entry.name] = found
        save(record)
        print(entry.name, line(found), flush=True)


def key_of(scheme: str) -> str:
    """Where the counts of a scheme are in a record."""
    return "networks" if scheme == FLOAT32 else f"networks_{scheme}"


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["ended without a word"])[-1][:200]


def line(found: dict[str, Any]) -> str:
    if "failed" in found:
        return f"not counted: {found['failed']}"
    counted = f"{found['stages']} stages, {found['triton']} launches of Triton's, {found['copies']} copies"
    others = f"{named(found['library'])} of libraries, {found['calls']} calls that fall back"
    return f"{counted}, {others}; of PyTorch {named(found['torch'])}"


def named(calls: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in sorted(calls.items(), key=lambda item: -item[1])) or "-"


HEAD = """# The zoo on a GPU, counted

Written by `python -m bench.zoo gpu`; {networks} networks, in float32. Nothing was run on a card. The plan of
`rt.compile(..., device="cuda")` is captured under a driver that is played: launches are noted, and PyTorch's calls are those
that it makes on tensors without memory (`bench/zoo/captured.py`).

The graphs have {triton} launches of Triton's kernels for {stages} stages, and {copies} nodes that copy memory. PyTorch
launches {left} kernels in them, {library} more are cuBLAS's, cuDNN's or cuFFT's, and {calls} calls fall back.
{whole} networks have no kernel of PyTorch's. {specialized} with a star read numbers of their inputs in Python and are
compiled with `specialize=True`.

| network | stages | launches of Triton's | copies | of libraries | PyTorch's kernels | calls that fall back |
|---|---|---|---|---|---|---|
"""
LEFT = """
## Stages in PyTorch

| operator | networks | why |
|---|---|---|
"""

IN_INT8 = """
## In W8A8

With static scales, of the same inputs: {networks} networks, {stages} stages, {triton} launches of Triton's kernels and
{copies} copies. PyTorch launches {left} kernels in them, {library} more are of libraries, and {calls} calls fall back.
{whole} networks have no kernel of PyTorch's.
"""
IN_INT8_LEFT = """
| network | stages | launches of Triton's | copies | of libraries | PyTorch's kernels | calls that fall back |
|---|---|---|---|---|---|---|
"""

NOT_COUNTED = """
## Not counted

| network | why |
|---|---|
"""


def shortened(why: str) -> str:
    """What a typed error got, without what was expected."""
    return why.rpartition("Error: ")[2].removeprefix("rtaccel.core.errors.").partition(";")[0].replace("|", "/")


def sums(counted: dict[str, dict[str, Any]]) -> dict[str, int]:
    """What a page says of all networks together."""
    total = {word: sum(found[word] for found in counted.values()) for word in ("stages", "triton", "copies", "calls")}
    made = {word: sum(sum(found[word].values()) for found in counted.values()) for word in ("library", "torch")}
    whole = sum(is_whole(found) for found in counted.values())
    return {**total, "networks": len(counted), "left": made["torch"], "library": made["library"], "whole": whole}


def is_whole(found: dict[str, Any]) -> bool:
    return not found["torch"] and not found["library"] and not found["calls"]


def row(name: str, found: dict[str, Any]) -> str:
    numbers = " | ".join(str(found[word] or "-") for word in ("stages", "triton", "copies"))
    star = " *" if found.get("specialized") else ""
    others = f"{named(found['library'])} | {named(found['torch'])} | {found['calls'] or '-'}"
    return f"| {name}{star} | {numbers} | {others} |\n"


def succeeded(networks: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: found for name, found in networks.items() if "failed" not in found}


def page(record: dict[str, Any]) -> str:
    counted = succeeded(record["networks"])
    starred = sum(found.get("specialized", False) for found in counted.values())
    text = HEAD.format(specialized=starred, **sums(counted)) + "".join(row(*item) for item in counted.items())
    left, reasons = Counter[str](), dict[str, str]()
    for found in counted.values():
        left.update(found["reasons"].keys())
        reasons |= found["reasons"]
    if left:
        text += LEFT + "".join(f"| {op} | {n} | {reasons[op]} |\n" for op, n in left.most_common())
    int8 = record.get(key_of(INT8), {})
    if int8:
        parted = {name: found for name, found in succeeded(int8).items() if not is_whole(found)}
        text += IN_INT8.format(**sums(succeeded(int8)))
        text += IN_INT8_LEFT * bool(parted) + "".join(row(*item) for item in parted.items())
    failed = {name: found["failed"] for name, found in (record["networks"] | int8).items() if "failed" in found}
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
        print(json.dumps(asdict(count(entries()[sys.argv[1]], *sys.argv[2:]))))
    except NotInstalled as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
