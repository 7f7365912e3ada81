"""`rtaccel build-kernels`: compiles the GPU kernels of a model ahead, on any machine, for the cards that will run it."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtaccel.cli._common import target as _target
from rtaccel.core import settings
from rtaccel.core.errors import BackendUnavailable, FormatError, RtaccelError
from rtaccel.core.process import whole_file

if TYPE_CHECKING:
    pass

HELP = "compile the GPU kernels of a model ahead, without a GPU, into a folder that an image can carry"

DEFAULT_ARCHITECTURES = "sm_80,sm_90"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--arch", default=DEFAULT_ARCHITECTURES, metavar="SM[,SM]", help=f"cards (default: {DEFAULT_ARCHITECTURES})"
    )
    parser.add_argument(
        "target",
        metavar="TARGET",
        nargs="?",
        help=f"{_target.HELP}; without it, the forms that rtaccel's own tests compile",
    )
    parser.add_argument("--model", metavar="TARGET", help="the same, as an option")
    stays = parser.add_mutually_exclusive_group()
    stays.add_argument(
        "--stream", action="store_true",
        help="the kernels of rt.stream(model, example_step, device='cuda'): the example is one time step, [1, features] for a "
        "persistent kernel and [streams, features] for a graph, the calibration windows",
    )  # fmt: skip
    stays.add_argument(
        "--persistent", action="store_true", help="the kernel of rt.compile(..., device='cuda', mode='persistent')"
    )
    parser.add_argument("--scheme", default="w8a8", help="of the model's layers (default: w8a8)")
    parser.add_argument("--out", type=Path, help=f"folder (default: ${settings.KERNELS}, or ~/.cache/rtaccel/kernels)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    if args.target and args.model:
        got = f"{args.target} and --model {args.model}"
        raise FormatError("build-kernels", got, "one target", "Leave one out.")
    capabilities = architectures(args.arch)
    _require_compiler()
    from rtaccel.kernels._gpu.cubin_store import CubinStore
    from rtaccel.runtime.gpu.ahead import build

    folder = whole_file.folder_of("build-kernels", args.out or settings.kernel_folder())
    store, built, failed = CubinStore(folder), [], []
    for capability, wanted in _wanted(args, capabilities):
        for key, spec in wanted.items():
            entry: dict[str, Any] = {"name": spec.name, "arch": f"sm_{capability}"}
            known = store.find(key, capability)
            if known is not None and known.capability == capability:
                built.append({**entry, "bytes": len(known.code), "was_there": True})
                continue
            try:
                cubin = build(spec, capability)
            except RtaccelError as error:
                failed.append({**entry, "reason": str(error)})
                continue
            store.put(cubin)
            built.append({**entry, "bytes": len(cubin.code), "was_there": False})
    found = {"folder": str(folder), "kernels": built, "failed": failed}
    print(json.dumps(found, indent=2) if args.json else render(found))
    if failed:
        raise FormatError(
            "build-kernels", f"{len(failed)} kernels that do not compile", "code for every architecture asked for",
            "Leave out the architectures named above: some formats need a newer card.",
        )  # fmt: skip
    return 0


def render(found: Mapping[str, Any]) -> str:
    """The same for people."""
    lines = [
        f"{k['arch']:7} {k['bytes']:8,} B  {k['name']}{'  (was there)' if k['was_there'] else ''}"
        for k in found["kernels"]
    ]
    lines += [f"{k['arch']:7} failed       {k['name']}: {k['reason']}" for k in found["failed"]]
    lines += [
        f"{len(found['kernels'])} kernels in {found['folder']}",
        f"next: set {settings.KERNELS}={found['folder']} where they run, with cuda-core installed; "
        f"{settings.NO_JIT}=1 makes a missing one an error",
    ]
    return "\n".join(lines)


def architectures(text: str) -> list[int]:
    """Compute capabilities times ten. Raises FormatError for one that no kernel is checked for."""
    from rtaccel.backends.triton import CHECKED_ARCHITECTURES

    found = []
    for word in filter(None, (w.strip() for w in text.split(","))):
        number = word.removeprefix("sm_").rstrip("a")
        if not number.isdigit() or int(number) not in CHECKED_ARCHITECTURES:
            known = ", ".join(f"sm_{c}" for c in CHECKED_ARCHITECTURES)
            raise FormatError(
                "build-kernels", f"--arch {word!r}", f"some of {known}", "Name the cards that will run it."
            )
        found.append(int(number))
    if not found:
        raise FormatError("build-kernels", f"--arch {text!r}", "at least one architecture", "Pass sm_90, for example.")
    return list(dict.fromkeys(found))


def _require_compiler() -> None:
    if importlib.util.find_spec("triton") is None:
        raise BackendUnavailable(
            "build-kernels", "no triton", "triton, which compiles the kernels", "pip install 'rtaccel[gpu]'"
        )
    if settings.triton_interpret():
        raise BackendUnavailable(
            "build-kernels", f"{settings.TRITON_INTERPRET}=1", "a process that compiles kernels", "Unset it."
        )


def _wanted(args: argparse.Namespace, capabilities: list[int]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """For each card the kernels, by key: forms of Triton kernels, and kernels in CUDA C++."""
    target = args.target or args.model
    if target is None:
        from rtaccel.kernels._gpu.triton_aot import specializations
        from rtaccel.kernels._gpu.triton_launch import spec_key

        if args.stream or args.persistent:
            raise FormatError("build-kernels", "a persistent kernel, of no model", "a target", "Name a model.")
        every = {spec_key(spec): spec for spec in specializations()}
        yield from ((capability, every) for capability in capabilities)
        return
    from rtaccel.runtime.gpu.ahead import kernels_by_card, persistent_kernels_of, stream_kernels_of

    found = _target.load_target(target)
    model, example, calibration = found.model, found.inputs, found.calibration
    if not args.stream and not args.persistent:
        yield from kernels_by_card(model, example, args.scheme, calibration, capabilities)
        return
    for capability in capabilities:
        if args.stream:
            yield capability, stream_kernels_of(model, example, args.scheme, calibration, capability)
        else:
            yield capability, persistent_kernels_of(model, example, args.scheme, calibration, capability, False)
