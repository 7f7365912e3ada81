"""Packed weights in a file: a machine that takes the same kernels reads them where they are, and packs nothing.

A section at the end of the file, of one image after another: `docs/reference/artifact.md` has its grammar.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

from rtaccel._native import Model
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.process import whole_file
from rtaccel.deploy import container, signing
from rtaccel.deploy.loaded_model import LARGE
from rtaccel.deploy.native_errors import typed
from rtaccel.deploy.verified import read_verified

_LENGTH = struct.Struct("<Q")
_VERSION_AT, _START_AT, _FILE_AT, _SECTION_AT = 8, 16, 32, 120
"""In the head of the plan: version of the format, where the data begins, bytes of the file, where the section begins."""
_STAGES_AND_BYTES = struct.Struct("<8sIIQ")


def prepack(path: str | os.PathLike[str], *, sign: Any = None) -> Path:
    """Adds the weights as this machine's kernels pack them to a file of `rt.save`. Who takes the same kernels loads it sooner.

    Run on one machine of each kind, a file has an image for each kind. The logical weights stay, and machines without an image
    pack them as ever: `explain` says which. The file is replaced as a whole.

    sign: the ed25519 private key; a file that was signed needs one again, for its bytes are others.

    Returns the path. Raises FormatError for what is no whole model, UnsupportedProblem for a signed file without a key, and where
    no stage has weights that can be kept so: of linear layers, convolutions and recurrent layers, but for sparse recurrent ones.
    """
    whole = read_verified(path)
    if sign is None and container.signature(whole) is not None:
        raise UnsupportedProblem(
            "prepack", f"{os.fspath(path)}, which is signed", "the key to sign it again", "Pass sign=."
        )
    made = with_prepacked(whole)
    if sign is not None:
        key = signing.private_key("prepack", sign)
        made = container.with_signature(made, key.sign(container.PREAMBLE + container.digest(made)))
    return whole_file.write("prepack", os.fspath(path), made)


def with_prepacked(whole: bytes) -> bytes:
    """The same file, unsigned, with an image for the kernels of this machine behind those that it has."""
    try:
        model = Model(without_section(whole), LARGE, 1)
    except ValueError as error:
        raise typed("prepack", f"{len(whole)} bytes", error) from None
    image = model.pack()
    if not image:
        raise UnsupportedProblem(
            "prepack", f"{model.name}, without weights to keep", "linear layers, convolutions or recurrent layers",
            "Leave prepacked out: loading packs them.",
        )  # fmt: skip
    others = [each for each in _images(section(whole)) if _kernels(each) != _kernels(image)]
    return _with_section(whole, b"".join([*others, image]))


def section(whole: bytes) -> bytes:
    """The images of a file, empty where it has none."""
    start = 8 + _LENGTH.unpack_from(whole)[0]
    (at,) = _LENGTH.unpack_from(whole, start + _SECTION_AT)
    return whole[start + at :] if at else b""


def without_section(whole: bytes) -> bytes:
    return _with_section(whole, b"") if section(whole) else whole


def _with_section(whole: bytes, images: bytes) -> bytes:
    length = _LENGTH.unpack_from(whole)[0]
    header = json.loads(whole[8 : 8 + length])
    data = bytearray(whole[8 + length : len(whole) - len(section(whole))])
    for name in ("prepacked", "pad.prepacked"):
        if name in header:
            data = data[: min(len(data), header.pop(name)["data_offsets"][0])]
    version, at = (2, len(data) + -len(data) % container.ALIGNMENT) if images else (1, 0)
    if images:
        if at != len(data):
            header["pad.prepacked"] = _entry(len(data), at)
            data += b"\0" * (at - len(data))
        header["prepacked"] = _entry(at, at + len(images))
        data += images
    fields = {
        **header.pop("__metadata__"),
        "sha256": "0" * 64,
        "ed25519": container.UNSIGNED,
        "format_version": str(version),
    }
    text = json.dumps({"__metadata__": fields, **header}, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-(8 + len(text)) % container.ALIGNMENT)
    start = 8 + len(text)
    struct.pack_into("<I", data, _VERSION_AT, version)
    for place, value in ((_START_AT, start), (_FILE_AT, start + len(data)), (_SECTION_AT, at)):
        _LENGTH.pack_into(data, place, value)
    return container.sealed(_LENGTH.pack(len(text)) + text + bytes(data))


def _entry(start: int, stop: int) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [stop - start], "data_offsets": [start, stop]}


def _images(images: bytes) -> list[bytes]:
    found = []
    while images:
        size = _STAGES_AND_BYTES.unpack_from(images)[3]
        found.append(images[:size])
        images = images[size:]
    return found


def _kernels(image: bytes) -> list[bytes]:
    """Of each stage with packed weights."""
    stages = _STAGES_AND_BYTES.unpack_from(image)[1]
    records = [image[64 * (i + 1) : 64 * (i + 2)] for i in range(stages)]
    return [r[:40] if _LENGTH.unpack_from(r, 48)[0] else b"" for r in records]
