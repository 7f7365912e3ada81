"""How the persistent kernels of a file are compiled, for a build of one's own, whose code `rta_gpu_code` takes.

A form is a file of this package's kernels with its sizes as definitions. What is written names the file and has the definitions,
so whoever reads both has seen all that is put onto a card.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.process import whole_file
from rtaccel.deploy.gpu_kernels import section_of_file
from rtaccel.deploy.persistent.section import TENSOR, launches_in
from rtaccel.kernels._gpu.cuda_nvrtc import FOLDER, CudaKernel

_NAME, _VALUE = re.compile(r"[A-Za-z_]\w*"), re.compile(r"[\w.{}, +-]*")
_FIELDS = set(CudaKernel.__dataclass_fields__)


def write_kernel_sources(
    path: str | os.PathLike[str] | bytes, folder: str | os.PathLike[str], verify_key: Any = None
) -> list[Path]:
    """A source `KEY.sm_90.cu` for each persistent kernel of a file that `rt.save(..., persistent=...)` wrote. Its name has the
    cards that it is for. CMake builds them with `-DRTACCEL_CUDA=ON -DRTACCEL_CUDA_FORMS=folder`.

    verify_key: the ed25519 public key that must have signed the file.

    Raises FormatError for a file that is not whole, without persistent kernels, or of other sources than this package has;
    UnsupportedProblem for a kernel of Triton's, which no C++ compiler takes.
    """
    section = section_of_file("kernel-sources", path, verify_key, TENSOR)
    if section is None:
        raise FormatError(
            "kernel-sources", "a file without persistent kernels", "one with them", "Save it with rt.save(..., persistent=)."
        )  # fmt: skip
    cards: dict[str, set[int]] = {}
    texts: dict[str, str] = {}
    for capability, key, recipe in launches_in(section):
        cards.setdefault(key, set()).add(capability)
        texts[key] = _source(_kernel(key, recipe))
    into = whole_file.folder_of("kernel-sources", folder)
    written = []
    for key, text in texts.items():
        written.append(into / ".".join([key, *(f"sm_{c}" for c in sorted(cards[key])), "cu"]))
        whole_file.write("kernel-sources", written[-1], text)
    return written


def _kernel(key: str, recipe: bytes) -> CudaKernel:
    """The form that a recipe tells, checked: its key is a hash of the sources that are here."""
    if not recipe:
        raise UnsupportedProblem(
            "kernel-sources", f"the kernel {key}, which is Triton's", "one in CUDA C++",
            "Take its code from the file.",
        )  # fmt: skip
    try:
        told = json.loads(recipe)
        sound = isinstance(told, dict) and set(told) == _FIELDS and _is_sound(told)
    except (ValueError, RecursionError):
        sound = False
    if not sound:
        raise FormatError("kernel-sources", f"{recipe!r:.80}", "a kernel as rt.save tells it", "Save the model again.")
    pairs = {name: tuple(map(tuple, told[name])) for name in ("parameters", "definitions")}
    kernel = CudaKernel(**{**told, **pairs, "includes": tuple(told["includes"])})
    if kernel.key != key:
        raise FormatError(
            "kernel-sources", f"{kernel.file}, which is not the source that {kernel.name:.60} was built from",
            "the release of rtaccel that saved the model", "Install that one, or save the model with this one.",
        )  # fmt: skip
    return kernel


def _is_sound(told: Mapping[str, Any]) -> bool:
    """Nothing in it leaves the package's kernels, or a line of the source."""
    files = [told["file"], *told["includes"]]
    definitions = dict(told["definitions"])
    return (
        all(isinstance(name, str) and (FOLDER / name).resolve().is_relative_to(FOLDER.resolve()) for name in files)
        and all((FOLDER / name).is_file() for name in files)
        and all(_NAME.fullmatch(str(name)) and _VALUE.fullmatch(str(value)) for name, value in definitions.items())
        and str(told["name"]).isprintable()
    )


def _source(kernel: CudaKernel) -> str:
    definitions = [f"#define {name} {value}" for name, value in kernel.definitions]
    return "\n".join([f"// {kernel.name}", *definitions, f'#include "{kernel.file}"', ""])
