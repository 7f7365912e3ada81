"""Changed files, loaded and run in a process of its own, so that a crash is seen by whoever started it.

    python -m tests.deploy.forged FOLDER COUNT SEED KEPT

FOLDER: files that were saved. KEPT: where the file that is being looked at is written before it is loaded. Prints how many
were refused, and how many ran.
"""

from __future__ import annotations

import faulthandler
import random
import struct
import sys
from pathlib import Path

import numpy as np

import rtaccel as rt
from rtaccel.deploy import container

NUMBERS = (0, 1, 2, 3, 7, 8, 15, 16, 17, 63, 64, 65, 127, 128, 255, 256, 1000, 65535, 65536, 2**31 - 1, 2**31, 2**32, 2**40,
           2**62, 2**63 - 1, -1, -2, -128, -129, -(2**31), -(2**63))  # fmt: skip
REALS = (0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"))
MOST = 1 << 22
"""Elements of a tensor that a changed model is still run with."""


def resealed(changed: bytes | bytearray) -> bytes:
    """With the digest of what is in it now: what a forger would write."""
    made = bytearray(changed)
    made[35:99] = container.digest(made).hex().encode()
    return bytes(made)


def data_start(whole: bytes | bytearray) -> int:
    return 8 + int(struct.unpack_from("<Q", whole)[0])


def change(whole: bytearray, draw: random.Random) -> None:
    """One number of the records, or one entry of a tensor."""
    start = data_start(whole)
    plan = min(struct.unpack_from("<Q", whole, start + 24)[0], len(whole) - start)
    inside = draw.random() < 0.7 or start + plan + 8 > len(whole)
    low, high = (start + 16, start + plan - 8) if inside else (start + plan, len(whole) - 8)
    size = draw.choice((1, 2, 4, 8)) if inside else draw.choice((1, 4, 4, 8))
    at = low + draw.randrange(max((high - low) // size, 1)) * size
    code = {1: "B", 2: "H", 4: "I", 8: "Q"}[size]
    (old,) = struct.unpack_from(f"<{code}", whole, at)
    kind = draw.randrange(6)
    if kind == 0 and size >= 4:
        struct.pack_into("<f" if size == 4 else "<d", whole, at, draw.choice(REALS))
        return
    number = old + draw.choice((-1, 1)) if kind < 3 else draw.choice(NUMBERS)
    struct.pack_into(f"<{code}", whole, at, number % (1 << 8 * size))


def run(model: rt.LoadedModel, draw: random.Random) -> None:
    samples = model.streams or max(model.batch[0], 2)
    inputs = []
    for _, dtype, shape in model.inputs:
        sizes = [samples if s < 0 else s for s in shape]
        if np.prod(sizes, dtype=float) > MOST:
            return
        numbers = np.random.default_rng(draw.randrange(1 << 30)).standard_normal(sizes) * 3
        inputs.append(
            numbers.astype(np.dtype("uint16" if dtype == "bfloat16" else dtype))
        )  # of which NumPy has the bits
    if any(np.prod([max(s, samples) for s in shape], dtype=float) > MOST for _, _, shape in model.outputs):
        return
    model._native.run(tuple(inputs), model._fresh(tuple(inputs)))
    model.reset()


def main() -> None:
    faulthandler.enable()
    folder, count, seed, kept = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    files = [file.read_bytes() for file in sorted(folder.iterdir())]
    draw = random.Random(seed)
    refused = ran = 0
    for i in range(count):
        whole = bytearray(files[i % len(files)])
        for _ in range(draw.choice((1, 1, 2, 4))):
            change(whole, draw)
        forged = resealed(whole)
        kept.write_bytes(forged)
        try:
            model = rt.load(forged)
        except rt.RtaccelError:
            refused += 1
            continue
        try:
            run(model, draw)
        except (rt.RtaccelError, ValueError):  # what the C library says of its input
            continue
        ran += 1
    kept.unlink()
    print(f"{refused} refused, {ran} ran")


if __name__ == "__main__":
    main()
