"""The file: a safetensors container whose first bytes hold a digest and a signature at a fixed place.

`docs/reference/artifact.md` has the grammar. Reads and writes bytes alone: no torch, no numpy.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rtaccel.core.errors import FormatError

FORMAT_VERSION = 1
ALIGNMENT = 64
UNSIGNED = "0" * 136
_BEFORE_DIGEST = b'{"__metadata__":{"sha256":"'
_BEFORE_SIGNATURE = b'","ed25519":"'
_DIGEST_AT = 8 + len(_BEFORE_DIGEST)
_SIGNATURE_AT = _DIGEST_AT + 64 + len(_BEFORE_SIGNATURE)
_HASHED_FROM = _SIGNATURE_AT + len(UNSIGNED) + 1
PREAMBLE = b"rtaccel model, format 1\n"
"""What a key signs begins with it: a signature made for something else is none of a model."""


@dataclass(frozen=True)
class Part:
    """A tensor of the file: its safetensors dtype, shape and bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def pack(parts: Mapping[str, Part], metadata: Mapping[str, str], fill: Any) -> bytes:
    """The bytes of a file, unsigned. fill: (start of the data, bytes of the file, name -> place in the data) -> the first part,
    as many bytes as it has: it says where the others are."""
    places, entries, at = {}, {}, 0
    names = list(parts)
    for index, name in enumerate(names):
        part = parts[name]
        places[name] = at
        entries[name] = _entry(part.dtype, part.shape, at, at + len(part.data))
        at += len(part.data)
        gap = -at % ALIGNMENT
        if gap and index + 1 < len(names):  # a safetensors file has no holes
            entries[f"pad.{index}"] = _entry("U8", (gap,), at, at + gap)
            at += gap
    fields = {"sha256": "0" * 64, "ed25519": UNSIGNED, **metadata}
    header = json.dumps({"__metadata__": fields, **entries}, separators=(",", ":"), ensure_ascii=True).encode()
    header += b" " * (-(8 + len(header)) % ALIGNMENT)
    start = 8 + len(header)
    first = fill(start, start + at, places)
    if len(first) != len(parts[names[0]].data):
        raise ValueError("the plan has another size than was said")
    body = bytearray(at)
    for name, part in parts.items():
        data = first if name == names[0] else part.data
        body[places[name] : places[name] + len(data)] = data
    return sealed(struct.pack("<Q", len(header)) + header + body)


def sealed(whole: bytes) -> bytes:
    """The bytes of a file with their digest where it belongs."""
    return whole[:_DIGEST_AT] + digest(whole).hex().encode() + whole[_DIGEST_AT + 64 :]


def _entry(dtype: str, shape: tuple[int, ...], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def digest(whole: bytes | bytearray) -> bytes:
    """sha256 of every byte behind the signature."""
    return hashlib.sha256(memoryview(whole)[_HASHED_FROM:]).digest()


def written_digest(op: str, whole: bytes) -> bytes:
    """The digest that a file says it has. Raises FormatError for what is no such file."""
    start = whole[8:_DIGEST_AT] == _BEFORE_DIGEST and len(whole) >= _HASHED_FROM
    if not start or whole[_DIGEST_AT + 64 : _SIGNATURE_AT] != _BEFORE_SIGNATURE:
        raise FormatError(
            op, f"{len(whole)} bytes that begin otherwise", "a model that rt.save wrote", "Save it again."
        )
    try:
        return bytes.fromhex(whole[_DIGEST_AT : _DIGEST_AT + 64].decode())
    except ValueError as error:
        raise FormatError(op, f"a digest that is none: {error}", "64 hexadecimal digits", "Save it again.") from error


def signature(whole: bytes) -> bytes | None:
    """The ed25519 signature within a file, or None where it has none."""
    text = whole[_SIGNATURE_AT : _SIGNATURE_AT + 128].decode("ascii", "replace")
    return None if text == UNSIGNED[:128] else bytes.fromhex(text)


def with_signature(whole: bytes, signed: bytes) -> bytes:
    text = signed.hex().encode()
    check = hashlib.sha256(text).hexdigest()[:8].encode()
    return whole[:_SIGNATURE_AT] + text + check + whole[_SIGNATURE_AT + len(UNSIGNED) :]


def tensor(op: str, whole: bytes, name: str) -> bytes | None:
    """The bytes of a tensor, or None where there is none of that name. Raises FormatError for a place outside the file."""
    found = entry(op, whole, name)
    return None if found is None else found[2]


def entry(op: str, whole: bytes, name: str) -> tuple[str, tuple[int, ...], bytes] | None:
    """The dtype, shape and bytes of a tensor, or None where there is none of that name. Raises FormatError as `tensor` does."""
    try:
        (length,) = struct.unpack_from("<Q", whole)
        found = json.loads(whole[8 : 8 + length]).get(name)
        if found is None:
            return None
        first, last = found["data_offsets"]
        shape = tuple(found["shape"])
        if not isinstance(found["dtype"], str) or any(type(size) is not int or size < 0 for size in shape):
            raise ValueError(f"a tensor of {found['dtype']!r:.20} and shape {shape!r:.80}")
        if type(first) is not int or type(last) is not int or not 0 <= first <= last <= len(whole) - 8 - length:
            raise ValueError(f"a tensor at {first}..{last}")
        return found["dtype"], shape, whole[8 + length + first : 8 + length + last]
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError) as error:
        raise FormatError(
            op, f"a header that cannot be read: {error}", "a safetensors file", "Save it again."
        ) from error


def metadata(op: str, whole: bytes) -> dict[str, str]:
    """The metadata of a file, whose digest was found right. Raises FormatError where its JSON is none."""
    try:
        (length,) = struct.unpack_from("<Q", whole)
        found = json.loads(whole[8 : 8 + length])["__metadata__"]
        if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
            raise TypeError("its metadata are no texts")
        return found
    except (ValueError, KeyError, TypeError, struct.error, RecursionError) as error:
        raise FormatError(
            op, f"a header that cannot be read: {error}", "a safetensors file", "Save it again."
        ) from error
