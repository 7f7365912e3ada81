"""The process of a file without torch: `python -m bench.zoo.doors.without_torch FILE FOLDER`.

It runs the file on in.npz, nested as nested.json says, and writes out.npz, its arrays in order.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.modules["torch"] = None  # type: ignore[assignment]  # an import of it raises, as where it is not installed

import numpy as np  # noqa: E402

import rtaccel as rt  # noqa: E402


def main() -> None:
    path, folder = sys.argv[1], Path(sys.argv[2])
    with np.load(folder / "in.npz", allow_pickle=False) as stored:
        arrays = iter([stored[name] for name in stored.files])
    given = built(json.loads((folder / "nested.json").read_text()), arrays)
    found = list(flat(rt.load(path)(*given)))
    np.savez(folder / "out.npz", *found)


def built(form: Any, arrays: Iterator[Any]) -> Any:
    """Arrays nested as `bench.zoo.doors.files.nested` says."""
    if form is None:
        return next(arrays)
    items = [built(one, arrays) for one in form["items"]]
    if form["kind"] == "dict":
        return dict(zip(form["keys"], items))
    return tuple(items) if form["kind"] == "tuple" else items


def flat(result: Any) -> Iterator[Any]:
    """Arrays of a result in order; complex ones as pairs of real numbers."""
    if isinstance(result, np.ndarray):
        yield np.stack((result.real, result.imag), -1) if np.iscomplexobj(result) else result
    elif isinstance(result, (tuple, list)):
        for one in result:
            yield from flat(one)
    elif isinstance(result, dict):
        for one in result.values():
            yield from flat(one)


if __name__ == "__main__":
    main()
