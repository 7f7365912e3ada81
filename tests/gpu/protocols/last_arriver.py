"""Programs that share the sum of a tile: each writes its part and counts, and the last to count adds the parts and sets the count
back (kernels/linear/triton/split.py). Two launches follow each other on the same words, as two replays of a graph do.

A launch begins when all stores of the one before are visible. Of a program's threads the first counts for all. It counts with
release: its own stores are visible before, and those of the threads that it met at the barrier. It counts with acquire: no
thread of its program reads a part sooner.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.gpu.protocols.explore import Local, Process, Read, Stores, Violation

LAUNCHES = 2
VARIANTS = (
    "", "no reset", "no release", "no acquire", "no barrier", "counts one too few", "counts one too many", "every program resets",
    "one counter for all tiles",
)  # fmt: skip
"""What is left out, or done wrongly."""


def thread(tile: int, part: int, index: int, size: tuple[int, int, int], variant: str) -> Process:
    """size: tiles, parts of each, threads of a program. Local: (launch, stage, parts that are known, what was read)."""
    tiles, parts, threads = size
    own, program = f"part{tile}.{part}.{index}", f"{tile}.{part}"
    count = "atomic count" if variant == "one counter for all tiles" else f"atomic count{tile}"
    last_is = parts - 1 + {"counts one too few": -1, "counts one too many": 1}.get(variant, 0)

    def written(word: str, launch: int) -> tuple[str, int]:
        return word, launch

    def ready(launch: int, read: Read) -> bool:
        """Whether the atomic may be: what a release waits for."""
        others = range(threads) if variant != "no barrier" else (index,)
        words = [f"part{program}.{t}" for t in others]
        return variant == "no release" or all(read(word) == written(word, launch) for word in words)

    def early(local: Local, read: Read) -> list[tuple[Local, Stores]]:
        """Without acquire a part may be read before the count is known."""
        launch, stage, came, seen = local
        if variant != "no acquire" or len(came) == parts:
            return []
        word = f"part{tile}.{len(came)}.{index}"
        return [((launch, stage, (*came, len(came)), (*seen, read(word))), ())]

    def step(local: Local, read: Read) -> Iterable[tuple[Local, Stores]] | None:
        launch, stage, came, seen = local
        if launch == LAUNCHES:
            return None
        if stage == "store":
            if read("atomic launch") != launch:
                return []
            return [((launch, "meet", came, seen), ((own, written(own, launch)),))]
        if stage == "meet":
            arrived = (*read(f"atomic barrier{program}"),)
            done = tuple(sorted({*arrived, (launch, index)}))
            return [((launch, "count", came, seen), ((f"atomic barrier{program}", done),)), *early(local, read)]
        if stage == "count":
            met = sum(at == launch for at, _ in read(f"atomic barrier{program}")) == threads
            if index == 0 and (met or variant == "no barrier") and ready(launch, read):
                before = read(count)
                told = (f"atomic last{program}", (launch, before == last_is))
                return [((launch, "told", came, seen), ((count, before + 1), told)), *early(local, read)]
            found = [((launch, "told", came, seen), ())] if index and read(f"atomic last{program}")[0] == launch else []
            return [*found, *early(local, read)]
        if stage == "told":
            if not read(f"atomic last{program}")[1]:
                reset: Stores = ((count, 0),) if variant == "every program resets" and index == 0 else ()
                return [((launch, "end", (), ()), reset)]
            if len(came) < parts:
                word = f"part{tile}.{len(came)}.{index}"
                return [((launch, stage, (*came, len(came)), (*seen, read(word))), ())]
            wanted = tuple(written(f"part{tile}.{p}.{index}", launch) for p in range(parts))
            if seen != wanted:
                raise Violation(f"thread {index} of part {part} of tile {tile} adds {seen} in launch {launch}")
            sums = (*read(f"atomic sum{tile}"), (launch, index))
            stores: Stores = ((f"atomic sum{tile}", sums),)
            if index == 0 and variant != "no reset":
                stores = (*stores, (count, 0))
            return [((launch, "end", (), ()), stores)]
        if read(own) != written(own, launch):  # a launch ends when its stores are visible
            return []
        ended = read("atomic ended") + 1
        stores = (("atomic ended", ended),)
        if ended == (launch + 1) * tiles * parts * threads:
            for t in range(tiles):
                found_sums = sorted(i for at, i in read(f"atomic sum{t}") if at == launch)
                if found_sums != list(range(threads)):
                    raise Violation(f"tile {t} has the sums of threads {found_sums} in launch {launch}")
            stores = (*stores, ("atomic launch", launch + 1))
        return [((launch + 1, "store", (), ()), stores)]

    return Process(f"tile {tile} part {part} thread {index}", (0, "store", (), ()), step)


def model(tiles: int, parts: int, threads: int, variant: str = "") -> tuple[list[Process], dict[str, Any]]:
    memory: dict[str, Any] = {"atomic launch": 0, "atomic ended": 0, "atomic count": 0}
    for tile in range(tiles):
        memory |= {f"atomic count{tile}": 0, f"atomic sum{tile}": ()}
        for part in range(parts):
            memory |= {f"atomic barrier{tile}.{part}": (), f"atomic last{tile}.{part}": (-1, False)}
            memory |= {f"part{tile}.{part}.{t}": ("nothing", -1) for t in range(threads)}
    size = (tiles, parts, threads)
    places = [(tile, part, t) for tile in range(tiles) for part in range(parts) for t in range(threads)]
    return [thread(*place, size, variant) for place in places], memory
