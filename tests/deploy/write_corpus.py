"""Writes the small files that tests/native/corpus holds: what the fuzzer of the loader begins with, and what it must refuse.

    python tests/deploy/write_corpus.py tests/native/corpus [--tries N]

One file for each operator (two where sequences have lengths), stream and format of packed weights, as small as the conformance
cases have it; and changed ones, `bad-*`, one for each reason that a file is refused for. A file that the fuzzer failed on is
added by hand, with a name that says what was wrong.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

import rtaccel as rt
from tests.deploy import forged, write_seeds

LARGEST = 2816
"""Bytes of a file. All of them together stay small enough for a repository."""


def whole_files() -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    torch.manual_seed(0)
    for name, content in (
        *write_seeds.of_operators(1), *write_seeds.of_streams(), *write_seeds.of_packed_weights(),
        *write_seeds.of_persistent_kernels(),
    ):  # fmt: skip
        several = name.startswith(("stream", "prepacked", "persistent"))
        kind = name.replace(" ", "").replace(",", "-") if several else name.split("-")[0]
        kind += "-lengths" if name.endswith("-lengths") else ""
        most = 4 * LARGEST if kind.startswith("persistent") else LARGEST  # whose records are longer
        small = len(content) <= most and len(content) < len(found.get(kind, b"-" * (most + 1)))
        if small and reason(content) is None:
            found[kind] = content
    return found


def reason(content: bytes) -> str | None:
    """Why a file is refused, without its numbers and names; None where it is not."""
    try:
        rt.load(content)
    except rt.RtaccelError as error:
        return re.sub(r"'[^']*'|[-\d.]+|\b\w+/\w+\b|stage \S+", "*", str(error).split("; expected")[0])
    return None


def bad_files(whole: dict[str, bytes], tries: int) -> dict[str, bytes]:
    draw, found = random.Random(0), dict[str, bytes]()
    names = sorted(whole)
    for _ in range(tries):
        changed = bytearray(whole[draw.choice(names)])
        for _ in range(draw.choice((1, 1, 2))):
            forged.change(changed, draw)
        content = forged.resealed(changed)
        why = reason(content)
        if why is not None and (why not in found or len(content) < len(found[why])):
            found[why] = content
    ordered = sorted(found.items(), key=lambda item: len(item[1]))
    return {f"bad-{number:03}": content for number, (_, content) in enumerate(ordered)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tries", type=int, default=1500)
    parser.add_argument("--most", type=int, default=60, help="changed files that are kept")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    whole = whole_files()
    bad = dict(list(bad_files(whole, options.tries).items())[: options.most])
    for name, content in {**whole, **bad}.items():
        (options.folder / f"{name}.rta").write_bytes(content)
    print(f"{len(whole)} files, {len(bad)} changed ones, {sum(map(len, [*whole.values(), *bad.values()]))} B")


if __name__ == "__main__":
    main()
