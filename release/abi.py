"""The types of librtaccel's ABI, recorded as text, and what abidiff says has changed since: `python -m release.abi`.

The public headers are C. The record is what they declare, each function with an empty body. abidiff compares the library that it
makes with one of the headers as they are. What the core exports is of these types: a source includes its header, and C++
refuses another definition. release/symbols.txt is the other half: which functions are there.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "release" / "abi.c"
TOOLS = ("cc", "abidiff")
FOLDERS = ("kernels/_core", "native", *(f"native/{p.parent.name}" for p in sorted(ROOT.glob("native/*/rta_*.h"))))
_DECLARED = re.compile(r"(?:^|(?<=[;}]))\s*((?:extern\s+)?[\w\s*]+?\brta_\w+\s*\((?:[^(){};]|\([^(){};]*\))*\))\s*;")


def missing() -> str | None:
    """Why nothing can be compared here."""
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"no {', '.join(absent)} (Debian: gcc, abigail-tools)" if absent else None


def run(command: list[str], **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return str(done.stdout)


def definitions(header: str = "rtaccel.h", root: Path = ROOT, folders: tuple[str, ...] = FOLDERS) -> str:
    """Our headers in C, preprocessed, with bodies for the functions that they declare."""
    includes = [f"-I{root / folder}" for folder in dict.fromkeys(folders)]
    text = run(["cc", "-E", "-x", "c", *includes, "-"], input=f'#include "{header}"\n')
    kept, ours = [], False
    for line in text.splitlines():
        if line.startswith("#"):
            ours = line.split('"')[1].startswith(str(root))
        elif ours and line.strip():
            kept.append(line.rstrip())
    return "\n".join(["#include <stddef.h>", "#include <stdint.h>", *_with_bodies("\n".join(kept)).splitlines(), ""])


def _with_bodies(text: str) -> str:
    """Structures are left whole: declarations are looked for outside of braces alone."""
    made, depth, start = [], 0, 0
    for at, character in enumerate(text):
        if character not in "{}":
            continue
        if character == "{" and depth == 0:
            made.append(_DECLARED.sub(r"\n\1 {}", text[start:at]))
            start = at
        depth += 1 if character == "{" else -1
        if character == "}" and depth == 0:
            made.append(text[start : at + 1])
            start = at + 1
    return "".join([*made, _DECLARED.sub(r"\n\1 {}", text[start:])])


def library(made: Path, source: str) -> Path:
    made.parent.mkdir(parents=True, exist_ok=True)
    command = [
        "cc",
        "-g",
        "-O0",
        "-w",
        "-std=gnu2x",
        "-shared",
        "-fPIC",
        "-fno-eliminate-unused-debug-types",
        "-x",
        "c",
    ]
    run([*command, "-", "-o", str(made), "-Wl,-soname,librtaccel.so"], input=source)
    return made


def changes(before: str, now: str, folder: Path) -> tuple[str, str]:
    """From one source to another: "", "added" or "changed", and what abidiff says. Then programs that were built before break."""
    libraries = [library(folder / name / "librtaccel.so", text) for name, text in (("before", before), ("now", now))]
    kind = ""
    for found, options in (("added", []), ("changed", ["--no-added-syms"])):
        command: list[str | Path] = ["abidiff", "--no-show-locs", *options, *libraries]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode & 3:
            raise SystemExit(f"abidiff ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
        if done.returncode == 0:
            break
        kind, said = found, done.stdout
    return kind, said if kind else ""


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="record the ABI as it is: where a change is meant")
    given = parser.parse_args(words)
    if why := missing():
        print(f"the ABI was not compared: {why}")
        return 1 if given.write else 0
    now = definitions()
    if given.write:
        RECORD.write_text(now)
        print(f"{RECORD.relative_to(ROOT)}  {RECORD.stat().st_size} B")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        kind, said = changes(RECORD.read_text(), now, Path(folder))
    if not kind:
        print(f"the ABI is what {RECORD.relative_to(ROOT)} records")
        return 0
    breaks = {
        "added": "what was there is as it was",
        "changed": "programs that were built before break: RTA_ABI_VERSION grows",
    }
    print(f"{said}\nThe ABI has changed; {breaks[kind]}. Where it is meant: python -m release.abi --write")
    return 1


if __name__ == "__main__":
    sys.exit(main())
