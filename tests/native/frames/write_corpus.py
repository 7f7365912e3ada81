"""Writes the frames that their fuzzer begins with into the folder beside this file.

python tests/native/frames/write_corpus.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rtaccel.serve.frames import Writer


def main() -> None:
    folder = Path(__file__).parent / "corpus"
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5)).astype(np.float32)
    images = rng.normal(size=(1, 2, 3, 3)).astype(np.float32)
    codes, words = rng.integers(-128, 128, (3, 4)).astype(np.int8), rng.integers(0, 9, (2, 2))
    bad = x.copy()
    bad[0, 1] = np.nan
    sets = {
        "float32": ([x], "float32"), "int8": ([x], "int8"), "int4": ([x], "int4"), "image": ([images], "int8"),
        "several": ([x, codes, words], "float32"), "mixed": ([words, x, bad], "int4"), "most": ([x[:1, :1]] * 8, "float32"),
    }  # fmt: skip
    for name, (arrays, wire) in sets.items():
        writer = Writer(arrays, bytes(range(16)), wire)
        for kind in ("request", "answer"):
            frame = bytearray(writer.bytes)
            writer.write(frame, 3, stamp_ns=-7, kind=kind, status=int(kind == "answer" and name == "int8"), session=11)
            (folder / f"{name}-{kind}.frame").write_bytes(bytes(frame))


if __name__ == "__main__":
    main()
