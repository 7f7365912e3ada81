"""Runs the machine code of a kernel as far as its addresses go: whole numbers, predicates and branches of all threads of a block.

Arguments are a base for each pointer, 2^40 apart and so aligned to more than any line, and the scalars of a launch. What memory
holds is unknown unless it is given, and so is what is computed of it; so are floats. A branch on an unknown number is taken where
it skips a call (the slow way of a division), else not. Threads that part on a way down meet again where it leads; on a way back
it is refused. All threads do an instruction together, so shared memory needs no barriers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.triton_checks.sass.instructions import WIDTHS, Instruction, Unsupported, behind, program
from tests.triton_checks.sass.values import MASK, Bits, Flags, Number, Predicate, all_known

BASE_BITS, MAX_STEPS, SHARED_WORDS = 40, 100_000, 1 << 16
_ADDRESS = re.compile(r"desc\[\w+\]\[(U?R\w+)(?:\.64)?(?:\+(-?0x[0-9a-f]+))?\]")
STORES = ("STG", "BAR", "STSM", "MEMBAR", "ERRBAR", "CGAERRBAR", "CCTL", "NOP", "WARPSYNC", "DEPBAR", "LDGDEPBAR")
"""What writes no register."""


@dataclass(frozen=True)
class Load:
    """argument: which pointer, by number. at: bytes behind its base, of each thread. active: the threads that load."""

    argument: int
    at: Bits
    active: Flags
    size: int


class Machine:
    """One block. constants: of the constant bank, by byte. memory: bytes behind a base, of those that are known."""

    def __init__(
        self, text: str, threads: int, constants: Mapping[int, int], program_ids: tuple[int, int, int],
        memory: Mapping[int, bytes] | None = None,
    ) -> None:  # fmt: skip
        self.code, self.labels = program(text)
        self.threads, self.constants = threads, constants
        self.memory = {argument: np.frombuffer(of + bytes(16), np.uint8) for argument, of in (memory or {}).items()}
        self.shared = Number(np.zeros(SHARED_WORDS, np.int64), np.zeros(SHARED_WORDS, bool))
        self.ids = dict(zip(("SR_CTAID.X", "SR_CTAID.Y", "SR_CTAID.Z"), program_ids))
        self.numbers: dict[str, Number] = {}
        self.predicates: dict[str, Predicate] = {}
        self.active: Flags = np.ones(threads, bool)
        self.loads: list[Load] = []
        self.lost = 0  # loads of whose addresses nothing is known
        self.parted: dict[int, Flags] = {}  # threads that went on to an instruction further down, and wait there

    # -- reading -------------------------------------------------------------------------------------------------------

    def predicate(self, name: str) -> Predicate:
        if name.startswith("!"):
            return ~self.predicate(name[1:])
        if name in ("PT", "UPT"):
            return Predicate.of(True, self.threads)
        return self.predicates.get(name, Predicate(np.zeros(self.threads, bool), np.zeros(self.threads, bool)))

    def number(self, name: str) -> Number:
        if name.startswith("-") and not name.startswith("-0x") and not name[1:2].isdigit():
            value = self.number(name[1:])
            return Number((1 << 32) - value.bits, value.known)  # of 0 this carries
        if name.startswith("~"):
            value = self.number(name[1:])
            return Number(MASK - value.bits, value.known)
        if name.startswith(("RZ", "URZ", "SRZ")):
            return Number.of(0, self.threads)
        if re.match(r"^U?R\d+$", name):
            return self.numbers.get(name, Number.unknown(self.threads))
        if bank := re.match(r"^c\[0x0\]\[(0x[0-9a-f]+)\]$", name):
            return self.constant(int(bank[1], 16))
        if re.match(r"^-?0x[0-9a-f]+$", name) or re.match(r"^-?\d+$", name):
            return Number.of(int(name, 0), self.threads)
        return Number.unknown(self.threads)

    def constant(self, at: int) -> Number:
        value = self.constants.get(at)
        return Number.unknown(self.threads) if value is None else Number.of(value, self.threads)

    def wide(self, name: str) -> tuple[Bits, Flags]:
        """64 bits of two registers."""
        low, high = self.number(name), self.number(behind(name, 1))
        return high.bits << 32 | low.bits, low.known & high.known

    # -- writing -------------------------------------------------------------------------------------------------------

    def put(self, name: str, value: Number, where: Flags) -> None:
        if name.startswith(("RZ", "URZ")):
            return
        before = self.numbers.get(name, Number.unknown(self.threads))
        self.numbers[name] = value.chosen(before, where)

    def put_wide(self, name: str, bits: Bits, known: Flags, where: Flags) -> None:
        self.put(name, Number(bits & MASK, known), where)
        self.put(behind(name, 1), Number(bits >> 32 & MASK, known), where)

    def put_predicate(self, name: str, value: Predicate, where: Flags) -> None:
        if name not in ("PT", "UPT"):
            self.predicates[name] = value.chosen(self.predicate(name), where)

    def forget(self, instruction: Instruction, where: Flags) -> None:
        """What is written is unknown from here on."""
        count = (
            4
            if instruction.name.startswith(("HMMA", "LDSM"))
            else max(WIDTHS.get(p, 4) for p in instruction.parts) // 4 or 1
        )
        for operand in instruction.operands[: 2 if instruction.operands[0].lstrip("!").startswith(("P", "UP")) else 1]:
            if re.match(r"^U?P\d$", operand):
                self.put_predicate(
                    operand, Predicate(np.zeros(self.threads, bool), np.zeros(self.threads, bool)), where
                )
            elif re.match(r"^U?R\d+$", operand):
                for i in range(count):
                    self.put(behind(operand, i), Number.unknown(self.threads), where)

    # -- running -------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        at = 0
        for _ in range(MAX_STEPS):
            if at in self.parted:
                self.active = self.active | self.parted.pop(at)
            if at >= len(self.code) or not (self.active.any() or self.parted):
                return
            at = self.step(at)
        raise Unsupported(f"more than {MAX_STEPS} steps")

    def step(self, at: int) -> int:
        """The number of the next instruction."""
        instruction = self.code[at]
        guard = self.predicate(instruction.guard)
        where, parts = self.active & guard.true & guard.known, instruction.parts
        unsure = self.active & ~guard.known
        if parts[0] == "EXIT":
            self.active = self.active & ~where
            return at + 1
        if parts[0] == "BRA":
            return self.branch(at, where, unsure)
        if parts[0] in ("CALL", "RET", "BSSY", "BSYNC", "BRX", "JMP"):
            if where.any() and parts[0] in ("BRX", "JMP", "RET"):
                raise Unsupported(instruction.name)
            return at + 1
        if parts[0] == "LDG":
            self.load(instruction, where | unsure)
            return at + 1
        from tests.triton_checks.sass import between_threads  # noqa: F401 - it adds its own
        from tests.triton_checks.sass.operations import OPERATIONS

        known = OPERATIONS.get(parts[0])
        if known is None or (parts[0] == "HFMA2" and parts[1:2] != ["MMA"]):
            if instruction.operands and parts[0] not in STORES:
                self.forget(instruction, where | unsure)
            return at + 1
        known(self, instruction, where)
        if unsure.any():
            self.forget(instruction, unsure)
        return at + 1

    def branch(self, at: int, where: Flags, unsure: Flags) -> int:
        label = re.search(r"\.L_x_\d+", self.code[at].operands[-1])
        if label is None:
            raise Unsupported(f"{self.code[at]}")
        target = self.labels[label[0]]
        if unsure.any():
            skips = any(i.name.startswith("CALL") for i in self.code[at + 1 : target]) if target > at else False
            return target if skips else at + 1
        if where.any() and (self.active & ~where).any():
            if target <= at:
                raise Unsupported(f"threads part at {self.code[at]}")
            self.parted[target] = self.parted.get(target, np.zeros(self.threads, bool)) | where
            self.active = self.active & ~where
            return at + 1
        if where.any() and target == at:  # the end of a kernel
            self.active = self.active & False
        return target if where.any() else at + 1

    def load(self, instruction: Instruction, active: Flags) -> None:
        found = _ADDRESS.search(instruction.operands[1])
        if found is None:
            raise Unsupported(f"{instruction}")
        offset = int(found[2] or "0", 16)
        bits, known = self.wide(found[1])
        self.forget(instruction, active)
        if not active.any():
            return
        if not known[active].all():
            self.lost += 1
            return
        at = bits + offset
        arguments = np.unique(at[active] >> BASE_BITS)
        if arguments.size != 1:
            raise Unsupported(f"{instruction}: an address of two arguments")
        size = next((WIDTHS[p] for p in instruction.parts if p in WIDTHS), 4)
        behind_base = at & ((1 << BASE_BITS) - 1)
        self.loads.append(Load(int(arguments[0]) - 1, behind_base, active.copy(), size))
        if int(arguments[0]) - 1 in self.memory:
            self.read(instruction, self.memory[int(arguments[0]) - 1], np.where(active, behind_base, 0), active, size)

    def read(self, instruction: Instruction, memory: Any, at: Bits, active: Flags, size: int) -> None:
        """What a load of known memory gives. Behind its end there are zeros."""
        each = min(size, 4)
        for i in range(max(size // 4, 1)):
            bytes_ = [
                memory[np.minimum(at + 4 * i + n, memory.size - 1)].astype(np.int64) << (8 * n) for n in range(each)
            ]
            bits = np.bitwise_or.reduce(bytes_)
            if set(instruction.parts) & {"S16", "S8"}:
                bits = (bits ^ (1 << (8 * each - 1))) - (1 << (8 * each - 1))
            self.put(behind(instruction.operands[0], i), Number(bits & MASK, np.ones(self.threads, bool)), active)

    def place(self, text: str) -> tuple[Bits, Flags]:
        """Words of shared memory that an address names, and whether it is known."""
        terms = [self.number(term) for term in text.strip("[]").split("+")]
        return sum((t.bits for t in terms), np.zeros(self.threads, np.int64)) // 4 % SHARED_WORDS, all_known(*terms)
