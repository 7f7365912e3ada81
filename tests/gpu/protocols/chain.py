"""Other weights for a chain of linear layers on one multiprocessor (mlp/cuda/chain.cu): a warp takes the message and hands it on
to two others, which fill the block's memory with the set that it names, each a part, and compute with all of it.

Who swaps and who calls are those of weights.py. A set is read behind an order alone, and what was read is kept in the block's
memory. All warps of a block read it through one cache. A fence of the warp that read the order empties that, and holds until
what the sender had written is there; the barrier hands both on. Of a chain of one layer with few outputs not every warp
answers (answering): the others may be late with a message that is answered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.gpu.protocols.explore import Local, Process, Read, Stores
from tests.gpu.protocols.weights import BLOCKS, caller, seen, swapper, visible

WORKERS = BLOCKS  # each sees a set's part in its own time
VARIANTS = (
    "",
    "one set",
    "an order is not taken back",
    "an order is lost to another",
    "no fence of the warp that polls",
    "no barrier behind the filling",
    "no barrier before the header is read",
    "one place for headers",
    "an order is looked at by the first alone",
)
"""What is left out, or done instead. "no barrier before the header is read": a warp goes on once the number of the header is
there or a later one."""


def header_of(number: int, variant: str) -> str:
    return f"atomic header{0 if variant == 'one place for headers' else number & 1}"


def poller(messages: int, variant: str) -> Process:
    """Local: (number, what it does, its order)."""

    def step(local: Local, read: Read) -> Iterable[tuple[Local, Stores]] | None:
        number, what, order = local
        if number > messages:
            return None
        if what == "wait":
            order, stored = read(f"request{number & 1}")
            return [((number, "fence" if order else "put", order), ())] if stored == number else []
        if what == "fence":
            if variant == "no fence of the warp that polls":
                return [((number, "put", order), ())]
            if not visible(order, range(WORKERS), read):
                return []
            return [((number, "put", order), (("atomic cache", ()),))]
        if what == "put":
            return [((number, "come", order), ((header_of(number, variant), (order, number)),))]
        came, opened = read("atomic taken")
        return [((number + 1, "wait", ()), (("atomic taken", meet(came, opened, WORKERS + 1)),))]

    return Process("poller", (1, "wait", ()), step)


def meet(came: int, opened: int, threads: int) -> tuple[int, int]:
    """A barrier behind one more that came: how many wait there, how often it has opened."""
    return (0, opened + 1) if came + 1 == threads else (came + 1, opened)


def worker(index: int, messages: int, variant: str, answering: int) -> Process:
    """Local: (number, what it does, how often the barrier had opened when it came, parts that it has read)."""

    def step(local: Local, read: Read) -> Iterable[tuple[Local, Stores]] | None:
        number, what, opened, parts = local
        if number > messages:
            return None
        if what == "come":
            if variant == "no barrier before the header is read":
                return [((number, "header", 0, ()), ())] if read(header_of(number, variant))[1] >= number else []
            came, before = read("atomic taken")
            return [((number, "taken", before, ()), (("atomic taken", meet(came, before, WORKERS + 1)),))]
        if what == "taken":
            return [((number, "header", 0, ()), ())] if read("atomic taken")[1] > opened else []
        if what == "header":
            order, _ = read(header_of(number, variant))
            looks = index == 0 or variant != "an order is looked at by the first alone"
            return [((number, "fill" if order and looks else "compute", 0, order if looks else ()), ())]
        if what == "fill":
            held, which = dict(read("atomic cache")), parts[0]
            there, found = read(seen(which, index)), []
            for v in sorted({there, held.get((which, index), there)}):
                cached = tuple(sorted({**held, (which, index): v}.items()))
                found.append(((number, "meet", 0, ()), (("atomic cache", cached), (f"atomic part{index}", v))))
            return found
        if what == "meet":
            if variant in ("no barrier behind the filling", "an order is looked at by the first alone"):
                return [((number, "compute", 0, ()), ())]
            came, before = read("atomic filled")
            return [((number, "filled", before, ()), (("atomic filled", meet(came, before, WORKERS)),))]
        if what == "filled":
            return [((number, "compute", 0, ()), ())] if read("atomic filled")[1] > opened else []
        parts = (*parts, read(f"atomic part{len(parts)}"))
        if len(parts) < WORKERS:
            return [((number, "compute", 0, parts), ())]
        answer: Stores = ((f"reply{number & 1}.{index}", (parts, number)),) if index < answering else ()
        return [((number + 1, "come", 0, ()), answer)]

    return Process(f"worker {index}", (1, "come", 0, ()), step)


def of_all(of: Process, answering: int) -> Process:
    """A caller that waits for the words of all workers that answer; the others' are taken to be those of the first."""

    def step(local: Local, read: Read) -> Iterable[tuple[Local, Stores]] | None:
        def joined(word: str) -> Any:
            if not word.startswith("reply"):
                return read(word)
            found = [read(f"{word}.{i if i < answering else 0}") for i in range(WORKERS)]
            return tuple(parts for parts, _ in found), min(stored for _, stored in found)

        return of.step(local, joined)

    return Process(of.name, of.start, step)


def model(
    variant: str = "", swaps: int = 2, messages: int = 3, answering: int = WORKERS
) -> tuple[list[Process], dict[str, Any]]:
    memory: dict[str, Any] = {
        "atomic pending": (),
        "atomic promised": (0, 0),
        "atomic taken": (0, 0),
        "atomic filled": (0, 0),
    }
    memory |= {"atomic cache": tuple(((0, i), 0) for i in range(WORKERS))}  # the start has read the first set
    for s in (0, 1):
        memory |= {f"request{s}": ((), 0), f"atomic header{s}": ((), 0)}
        memory |= {f"reply{s}.{i}": ((), 0) for i in range(WORKERS)} | {seen(s, i): 0 for i in range(WORKERS)}
    memory |= {f"atomic part{i}": 0 for i in range(WORKERS)}
    workers = [worker(i, messages, variant, answering) for i in range(WORKERS)]
    return [
        swapper(swaps, variant),
        of_all(caller(messages, variant), answering),
        poller(messages, variant),
        *workers,
    ], memory
