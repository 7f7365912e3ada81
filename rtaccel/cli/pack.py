"""`rtaccel pack`: one model's kernels as a static library for C."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "write a static library, headers and build files with only the kernels that one model file needs"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="a file that rt.save wrote")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--isa", action="append", help="instruction set, again for several (default: avx2)")
    parser.add_argument("--name", help="name of the library, an identifier of C (default: the file's)")
    parser.add_argument("--embed", action="store_true", help="put the model's file into .rodata of the library")
    parser.add_argument("--no-trim", action="store_true", help="keep the kernels that the plan does not need")
    parser.add_argument("--threads", action="store_true", help="let a model be opened with several threads")
    parser.add_argument("--compiler", help="C++ compiler to call")
    parser.add_argument("--toolchain", type=Path, metavar="FILE", help="CMake's toolchain file of another machine")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    from rtaccel.deploy.pack import pack

    packed = pack(
        args.model, args.out, args.isa or ["avx2"], name=args.name, embed=args.embed, trim=not args.no_trim,
        threads=args.threads, compiler=args.compiler, toolchain=args.toolchain,
    )  # fmt: skip
    if args.json:
        print(
            json.dumps(
                {
                    "folder": str(packed.folder),
                    "name": packed.name,
                    "files": packed.files,
                    "archive_bytes": packed.archive_bytes,
                    "kernels": packed.kernels,
                    "memory_bytes": packed.memory_bytes,
                    "memory_measured": packed.measured,
                    "program_bytes": packed.program_bytes,
                    "sections": packed.sections,
                }
            )
        )
    else:
        print(packed)
    return 0
