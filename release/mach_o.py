"""What a file for macOS says of itself: libraries it asks for, symbols with where each comes from, the signature."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field

MAGIC, CPU_ARM64 = 0xFEEDFACF, 0x0100000C
DYLIB = 6
LOOKED_UP = "at load"  # a symbol of whichever library has it
_LIBRARIES = (0xC, 0x80000018, 0x8000001F)  # LC_LOAD_DYLIB, weak, re-exported
_SYMTAB, _BUILD, _SIGNATURE, _RPATH, _OWN_NAME = 0x2, 0x32, 0x1D, 0x8000001C, 0xD


@dataclass(frozen=True)
class MachO:
    """kind: DYLIB for a library. asked: symbol -> the library that has it, or LOOKED_UP. shown: symbols for others.
    system: the oldest macOS. signed: whether every page is as the signature says."""

    kind: int
    own_name: str = ""
    libraries: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    asked: dict[str, str] = field(default_factory=dict)
    shown: tuple[str, ...] = ()
    system: tuple[int, int] = (0, 0)
    signed: bool = False


def is_arm64(content: bytes) -> bool:
    """Whether a file is one object, library or program of 64-bit code for Apple's processors."""
    return len(content) >= 32 and struct.unpack_from("<II", content) == (MAGIC, CPU_ARM64)


def read(content: bytes) -> MachO:
    """Raises ValueError for a file of another kind or processor."""
    if not is_arm64(content):
        raise ValueError("no 64-bit file for Apple's processors")
    kind, commands = struct.unpack_from("<II", content, 12)
    libraries, paths, own, system, signed = [], [], "", (0, 0), False
    table: tuple[int, ...] | None = None
    at = 32
    for _ in range(commands):
        command, size = struct.unpack_from("<II", content, at)
        words = struct.unpack_from(f"<{size // 4}I", content, at)
        if command in (*_LIBRARIES, _RPATH, _OWN_NAME):
            text = content[at + words[2] : at + size].split(b"\0")[0].decode()
            if command == _OWN_NAME:
                own = text
            else:
                (paths if command == _RPATH else libraries).append(text)
        elif command == _BUILD:
            system = (words[3] >> 16, words[3] >> 8 & 255)
        elif command == _SYMTAB:
            table = words[2:6]
        elif command == _SIGNATURE:
            signed = _pages_are_signed(content, words[2])
        at += size
    asked, shown = _symbols(content, table, libraries) if table else ({}, [])
    return MachO(kind, own, tuple(libraries), tuple(paths), asked, tuple(sorted(shown)), system, signed)


def _symbols(content: bytes, table: tuple[int, ...], libraries: list[str]) -> tuple[dict[str, str], list[str]]:
    start, count, texts, _ = table
    asked, shown = {}, []
    for i in range(count):
        name_at, kind, _, about, _ = struct.unpack_from("<IBBHQ", content, start + 16 * i)
        name = content[texts + name_at : content.index(0, texts + name_at)].decode() if name_at else ""
        if kind & 0xE0 or not kind & 1 or kind & 0x10:  # of a debugger, or not for others
            continue
        if kind & 0xE == 0:
            ordinal = about >> 8
            asked[name] = libraries[ordinal - 1] if 0 < ordinal <= len(libraries) else LOOKED_UP
        else:
            shown.append(name)
    return asked, shown


def _pages_are_signed(content: bytes, at: int) -> bool:
    """Of the signature that Apple's processors ask of all code: sha256 of each page of the file."""
    magic, _, count = struct.unpack_from(">III", content, at)
    if magic != 0xFADE0CC0:
        return False
    for i in range(count):
        kind, offset = struct.unpack_from(">II", content, at + 12 + 8 * i)
        directory = at + offset
        if kind != 0 or struct.unpack_from(">I", content, directory)[0] != 0xFADE0C02:
            continue
        hashes, _, _, pages, limit = struct.unpack_from(">IIIII", content, directory + 16)
        size, algorithm, _, shift = struct.unpack_from(">BBBB", content, directory + 36)
        if (size, algorithm) != (32, 2) or pages != (limit + (1 << shift) - 1) >> shift:
            return False
        for page in range(pages):
            part = content[page << shift : min((page + 1) << shift, limit)]
            if (
                content[directory + hashes + 32 * page : directory + hashes + 32 * (page + 1)]
                != hashlib.sha256(part).digest()
            ):
                return False
        return pages > 0
    return False
