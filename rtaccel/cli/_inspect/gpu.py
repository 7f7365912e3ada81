"""A Triton kernel compiled for an architecture on a machine without a GPU: its cost and its floor."""

from __future__ import annotations

import inspect
import re
import sys
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from rtaccel.cli._inspect.cards import Card
from rtaccel.cli._inspect.mix import mix
from rtaccel.cli._inspect.occupancy import Occupancy, occupancy
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.registry import Impl, operator
from rtaccel.core.stage import Problem
from rtaccel.measure.numbers import figure

if TYPE_CHECKING:
    from rtaccel.kernels._gpu.triton_spec import Specialisation

_PTX = re.compile(r"^\s+(?:@!?%p\d+\s+)?([a-z][\w.:]*)", re.MULTILINE)


@dataclass(frozen=True)
class Inspected:
    """registers, stack_bytes, spills: None where the code could be read as PTX alone. language: of the instructions, "SASS" or
    "PTX", with the reason for the latter in `note`. bytes, macs: what the problem must at least move and multiply.
    floor_us: the least time on the card, whatever the kernel. bound: what sets it. All of these are None for a declared
    form, whose problem is not known."""

    name: str
    problem: str | None
    card: Card
    registers: int | None
    stack_bytes: int | None
    spills: int | None
    shared_bytes: int
    warps_per_block: int
    occupancy: Occupancy | None
    language: str
    instructions: dict[str, int]
    kinds: dict[str, int]
    bytes: int | None
    macs: int | None
    floor_us: float | None
    bound: str | None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def inspect_triton(impl: Impl, problem: Problem, card: Card) -> Inspected:
    """Raises UnsupportedProblem where the kernel does not take the problem, or where Triton runs as an interpreter."""
    reason = impl.supports(problem)
    if reason is not None:
        raise UnsupportedProblem(
            "inspect", f"{impl.op}/{impl.name} on {problem}", "a problem it computes", f"It {reason}."
        )
    module = sys.modules[getattr(impl.prepare, "func", impl.prepare).__module__]
    specialize = getattr(module, "specialize", None)
    if specialize is None or list(inspect.signature(specialize).parameters) != ["problem"]:
        raise UnsupportedProblem(
            "inspect", f"{impl.op}/{impl.name}", "a kernel file with specialize(problem)",
            "Name one of its declared forms instead: " + ", ".join(declared(module)) + ".",
        )  # fmt: skip
    found = inspect_form(specialize(problem), card)
    cost = operator(impl.op).cost(problem)
    moved, multiplied = cost.bytes / card.gb_s / 1e3, cost.flops / card.int8_tops / 1e6
    return replace(
        found,
        problem=str(problem),
        bytes=cost.bytes,
        macs=cost.flops // 2,
        floor_us=max(moved, multiplied),
        bound="memory" if moved >= multiplied else "int8 tensor cores",
    )


def declared(module: Any) -> list[str]:
    """Names of the forms that a kernel file declares for the check without a GPU."""
    return [spec.name for spec in module.specializations()] if hasattr(module, "specializations") else ["(none)"]


def inspect_form(spec: Specialisation, card: Card) -> Inspected:
    """One compiled form of a kernel, whatever problem it is for."""
    from rtaccel.kernels._gpu.triton_aot import Footprint, compile_kernel, read_cubin

    kernel = compile_kernel(spec, card.capability)
    shared, warps = kernel.metadata.shared, spec.tiling.num_warps
    footprint: Footprint | None = None
    note = ""
    try:
        footprint = read_cubin(kernel.asm["cubin"], shared)
    except (OSError, RuntimeError) as error:
        note = (
            f"no disassembler (triton ships nvdisasm and cuobjdump: {error}); PTX was counted, registers are not known"
        )
    language = "SASS" if footprint else "PTX"
    instructions = dict(footprint.instructions) if footprint else ptx_instructions(kernel.asm["ptx"])
    return Inspected(
        name=spec.name, problem=None, card=card,
        registers=footprint.registers if footprint else None,
        stack_bytes=footprint.stack_bytes if footprint else None,
        spills=footprint.spills if footprint else None,
        shared_bytes=shared, warps_per_block=warps,
        occupancy=occupancy(card, footprint.registers, shared, warps) if footprint else None,
        language=language, instructions=instructions, kinds=mix(instructions, language),
        bytes=None, macs=None, floor_us=None, bound=None, note=note,
    )  # fmt: skip


def ptx_instructions(text: str) -> dict[str, int]:
    """Mnemonic -> occurrences in the body of PTX."""
    body = text[text.find("{") :]
    found = Counter(_PTX.findall(body))
    return {name: count for name, count in found.items() if not name.endswith(":")}


def describe(found: Inspected) -> list[tuple[str, str]]:
    """(label, text) rows for people."""
    card, rows = found.card, [("kernel", found.name)]
    if found.problem is not None:
        rows.append(("problem", found.problem))
    rows.append(("card", f"{found.card.arch}; speeds of {card.name}, by its data sheet"))
    if found.registers is not None:
        rows.append(("registers", f"{found.registers} of a thread"))
        rows.append(("spills", f"{found.spills} loads and stores, {found.stack_bytes} B of stack"))
    rows.append(("shared memory", f"{found.shared_bytes:,} B of a block of {found.warps_per_block} warps"))
    if found.occupancy is not None:
        o = found.occupancy
        rows.append(
            ("occupancy", f"{100 * o.share:.0f} %: {o.blocks} blocks, {o.warps} of {card.warps} warps, by {o.limit}")
        )
    total = sum(found.instructions.values())
    rows.append(("instructions", f"{total:,} in the code ({found.language})"))
    rows += [("", f"{count:6,}  {kind}") for kind, count in found.kinds.items()]
    if found.floor_us is not None:
        rows.append(("bytes moved", f"{found.bytes:,} at least"))
        rows.append(("multiply-adds", f"{found.macs:,}"))
        rows.append(("roofline floor", f"{figure(found.floor_us, 3)} us, by {found.bound}; launching comes on top"))
    return rows + ([("note", found.note)] if found.note else [])
