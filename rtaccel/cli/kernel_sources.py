"""`rtaccel kernel-sources`: what a saved model's persistent kernels are compiled from, for a build of one's own."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "write the sources of a saved model's persistent kernels, for CMake and rta_gpu_code"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="MODEL.rta", type=Path, help="that rt.save(..., persistent=...) wrote")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="that receives KEY.sm_90.cu of each kernel")
    parser.add_argument(
        "--key", metavar="PUBLIC.pem", type=Path, help="the ed25519 public key that must have signed the file"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    from rtaccel.deploy.persistent.kernel_sources import write_kernel_sources

    written = write_kernel_sources(args.file, args.folder, args.key)
    if args.json:
        print(json.dumps({"folder": str(args.folder), "sources": [path.name for path in written]}))
        return 0
    print("\n".join(path.name for path in written))
    print(f"next: cmake -S RTACCEL -B build -DRTACCEL_CUDA=ON -DRTACCEL_CUDA_FORMS={args.folder.resolve()}")
    return 0
