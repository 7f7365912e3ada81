"""Objects of JSON with each key once: of a key that is there twice, readers take the first, the last or neither."""

from __future__ import annotations

from typing import Any

from rtaccel.core.errors import FormatError


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads`, as object_pairs_hook. Raises FormatError where a key is there twice."""
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise FormatError("infer", f"JSON with the key {name[:80]!r} twice", "each key once", "Send one of them.")
        made[name] = value
    return made
