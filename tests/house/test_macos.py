"""The wheel for macOS: what its files have to say of themselves, read without a Mac."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.wheel import ROOT

sys.path.insert(0, str(ROOT))
from release import mach_o, macos
from release.matrix import Interpreter

ABI = {"rta_one", "rta_two"}
LIBRARY = mach_o.MachO(
    mach_o.DYLIB, "@rpath/librtaccel.dylib", (macos.SYSTEM,), (), {"_malloc": macos.SYSTEM},
    ("___dso_handle", "__mh_dylib_header", "_rta_one", "_rta_two"), (11, 0), True,
)  # fmt: skip
MODULE = mach_o.MachO(
    mach_o.DYLIB, "_native.abi3.so", (macos.SYSTEM, LIBRARY.own_name), ("@loader_path",),
    {"_PyList_New": mach_o.LOOKED_UP, "_rta_one": LIBRARY.own_name, "_free": macos.SYSTEM}, ("_PyInit__native",), (11, 0), True,
)  # fmt: skip


def test_names_of_the_target() -> None:
    wanted = macos.target(
        [Interpreter((3, 13), "b", True), Interpreter((3, 12), "a", True), Interpreter((3, 11), "c", True)]
    )
    assert wanted is not None
    assert (wanted.interpreter.path, wanted.tag, wanted.platform) == ("a", "cp312-abi3", "macosx_11_0_arm64")
    assert wanted.zig == "aarch64-macos.11.0"
    assert wanted.environment["_PYTHON_HOST_PLATFORM"] == "macosx-11.0-arm64"
    assert macos.target([Interpreter((3, 12), "a", False), Interpreter((3, 11), "c", True)]) is None


def test_files_as_they_have_to_be() -> None:
    assert macos.faults(LIBRARY, MODULE, ABI) == []


FAULTS = [
    (LIBRARY, {"shown": (*LIBRARY.shown, "__Znwm")}, "library: shows _Znwm"),
    (LIBRARY, {"shown": LIBRARY.shown[:-1]}, "library: lacks rta_two"),
    (LIBRARY, {"asked": {"_PyList_New": mach_o.LOOKED_UP}}, "library: _PyList_New from at load"),
    (LIBRARY, {"libraries": (macos.SYSTEM, "/usr/lib/libc++.1.dylib")}, "library: asks for /usr/lib/libc++.1.dylib"),
    (LIBRARY, {"signed": False}, "library: kind 6, for macOS (11, 0), signed: False"),
    (LIBRARY, {"system": (14, 0)}, "library: kind 6, for macOS (14, 0), signed: True"),
    (MODULE, {"asked": {"_futex": mach_o.LOOKED_UP}}, "module: _futex from at load"),
    (MODULE, {"asked": {"_rta_gone": LIBRARY.own_name}}, "module: _rta_gone from @rpath/librtaccel.dylib"),
    (MODULE, {"paths": ()}, "module: looks for @rpath/librtaccel.dylib in ()"),
    (MODULE, {"shown": ()}, "module: no _PyInit__native"),
]


@pytest.mark.parametrize(("file", "change", "said"), FAULTS)
def test_what_is_wrong_is_said(file: mach_o.MachO, change: dict[str, object], said: str) -> None:
    changed = dataclasses.replace(file, **change)  # type: ignore[arg-type]
    found = macos.faults(changed if file is LIBRARY else LIBRARY, changed if file is MODULE else MODULE, ABI)
    assert said in found


def test_kernels_are_told_by_what_ninja_makes(tmp_path: Path) -> None:
    for build, system in (("a", "linux"), ("b", "darwin")):
        (tmp_path / build).mkdir()
        (tmp_path / build / "build.ninja").write_text(
            "build lib.dir/kernels/linear/cpu_kernel_neon.cc.o: CXX x\n  DEP_FILE = y\n"
            f"build lib.dir/kernels/_system/os_{system}.cc.o: CXX x\nbuild lib.dir/native/model/model.cc.o: CXX z\n"
        )
        (tmp_path / build / "stale.cc.o").touch()
    assert macos.kernels(tmp_path / "a") == macos.kernels(tmp_path / "b") == {"linear/cpu_kernel_neon.cc.o"}


@pytest.mark.skipif(macos.zig() is None, reason="ziglang is not installed")
def test_a_library_that_zig_links(tmp_path: Path) -> None:
    source = (
        '#include <stdlib.h>\nint rta_one(void) { return rand(); }\n__attribute__((visibility("hidden"))) int own;\n'
    )
    (tmp_path / "a.c").write_text(source)
    made, compiler = tmp_path / "liba.dylib", macos.zig()
    command = [compiler, "cc", "-target", "aarch64-macos.11.0", "-dynamiclib", "-install_name", "@rpath/liba.dylib"]
    subprocess.run([*command, "-Wl,-rpath,@loader_path", "-o", made, tmp_path / "a.c"], check=True, cwd=tmp_path)
    content = made.read_bytes()
    found = mach_o.read(content)
    assert (found.kind, found.own_name, found.libraries) == (mach_o.DYLIB, "@rpath/liba.dylib", (macos.SYSTEM,))
    assert (found.paths, found.system, found.signed) == (("@loader_path",), (11, 0), True)
    assert set(found.shown) == {"_rta_one", *macos.OF_EVERY_FILE}
    assert found.asked["_rand"] == macos.SYSTEM
    changed = bytearray(content)
    changed[len(content) // 4] ^= 1
    assert not mach_o.read(bytes(changed)).signed
    with pytest.raises(ValueError, match="Apple's processors"):
        mach_o.read(b"\x7fELF" + content[4:])


@pytest.mark.skipif(macos.zig() is None, reason="ziglang is not installed")
@pytest.mark.parametrize(
    "source",
    [
        "kernels/_system/os_darwin.cc",
        "kernels/_system/thread_pool.cc",
        "kernels/_core/isa.cc",
        "native/model/artifact_bytes.cc",
        "native/realtime/latest_shared_darwin.cc",
        "native/realtime/loop_thread.cc",
        "native/batcher/workers.cc",
    ],
)
def test_what_depends_on_the_system_compiles(source: str, tmp_path: Path) -> None:
    """`python -m release.macos` compiles all; here are the sources that name what systems have."""
    folders = [
        "kernels",
        "kernels/_core",
        "native",
        *(f"native/{p.name}" for p in (ROOT / "native").iterdir() if p.is_dir()),
    ]
    made = tmp_path / "made.o"
    command = [
        macos.zig(),
        "c++",
        "-target",
        "aarch64-macos.11.0",
        "-std=c++20",
        "-O0",
        "-c",
        "-o",
        made,
        ROOT / source,
    ]
    subprocess.run([*command, *(f"-I{ROOT / folder}" for folder in folders)], check=True, cwd=tmp_path)
    assert mach_o.is_arm64(made.read_bytes())
