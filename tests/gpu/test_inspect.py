"""`rtaccel inspect`: occupancy by the vendor's rules, instructions by kind, what cannot be inspected and why."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rtaccel.cli._inspect import cpu, gpu
from rtaccel.cli._inspect.cards import CARDS, card_of
from rtaccel.cli._inspect.mix import mix
from rtaccel.cli._inspect.occupancy import occupancy
from rtaccel.cli.main import main
from rtaccel.core import settings
from rtaccel.core.errors import BackendUnavailable, FormatError
from rtaccel.core.registry import Impl, impls

compiles = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or settings.triton_interpret(),
    reason="Triton is not installed, or runs as an interpreter",
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))


@pytest.mark.parametrize(
    ("arch", "registers", "shared", "warps", "blocks", "limit"),
    [
        ("sm_80", 32, 0, 8, 8, "warps"),  # 64 warps of 1024 registers: the whole file
        ("sm_80", 64, 0, 8, 4, "registers"),  # 2048 a warp: 8 in each quarter, 32 in all
        ("sm_80", 255, 0, 4, 2, "registers"),  # 8192 a warp, by 256: 2 in each quarter
        ("sm_90", 32, 100_000, 4, 2, "shared memory"),  # 101,120 with what the driver takes, of 233,472
        ("sm_86", 16, 0, 1, 16, "blocks"),
        ("sm_120", 16, 0, 1, 24, "blocks"),
        ("sm_89", 40, 0, 8, 6, "warps"),  # 48 warps
    ],
)
def test_occupancy(arch: str, registers: int, shared: int, warps: int, blocks: int, limit: str) -> None:
    card = card_of(arch)
    found = occupancy(card, registers, shared, warps)
    assert (found.blocks, found.limit) == (blocks, limit)
    assert found.warps == blocks * warps
    assert found.share == found.warps / card.warps


def test_a_block_that_does_not_fit_has_no_occupancy() -> None:
    assert occupancy(card_of("sm_89"), 32, 120_000, 4).blocks == 0


def test_cards() -> None:
    from rtaccel.cli._inspect.cards import Card

    assert len({card.arch for card in CARDS}) == len(CARDS)
    assert isinstance(card_of("sm_90"), Card)
    for unknown in ("sm_70", "90", "h100", ""):
        with pytest.raises(FormatError, match="sm_90"):
            card_of(unknown)


def test_instructions_by_kind() -> None:
    sass = {
        "IMMA.16832.S8.S8.SAT": 4, "HGMMA.64x8x16.F32": 1, "IDP.4A.S8.S8": 8, "LDG.E.128": 3, "LDGSTS.E.128": 2, "STS.128": 2,
        "LDSM.16.M88.4": 1, "STL": 1, "BAR.SYNC.DEFER_BLOCKING": 3, "FFMA": 5, "FMNMX": 1, "MUFU.EX2": 2, "IMAD": 9, "EXIT": 1,
    }  # fmt: skip
    assert mix(sass, "SASS") == {
        "tensor cores": 5, "dp4a": 8, "global loads": 5, "shared memory": 3, "local memory (spills)": 1, "barriers": 3,
        "float": 6, "transcendental": 2, "control": 1, "integer and moves": 9,
    }  # fmt: skip
    found = mix({"vpdpbusd": 3, "vfmadd231ps": 2, "vaddps": 1, "vmovups": 4, "jne": 1, "add": 5, "tdpbusd": 1}, "CPU")
    assert found["int8 dot products"] == 4
    assert found["fused multiply-add"] == 2
    assert found["scalar and other"] == 5
    assert sum(found.values()) == 17


PTX = """
.visible .entry kernel(.param .u64 p)
{
\t.reg .b32 %r<9>;
\tld.param.b64 \t%rd1, [p];
\t@%p1 ld.global.v4.b32 { %r1, %r2 }, [ %rd1 + 0 ];
\tdp4a.s32.s32 \t%r3, %r1, %r2, %r3;
\tfma.rn.f32 \t%r4, %r3, %r2, %r1;
\tshfl.sync.bfly.b32 \t%r5, %r4, 16, 31, -1;
$L__BB0_2:
\tst.global.b32 [ %rd1 ], %r5;
\tret;
}
"""


def test_ptx_is_counted() -> None:
    found = gpu.ptx_instructions(PTX)
    assert found["dp4a.s32.s32"] == 1
    kinds = mix(found, "PTX")
    assert (kinds["dp4a"], kinds["global loads"], kinds["global stores"], kinds["float"]) == (1, 1, 1, 1)
    assert (kinds["shuffles"], kinds["control"]) == (1, 1)


@compiles
def test_a_triton_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["inspect", "linear/triton_gemv", "--arch", "sm_80", "--case", "rows=1", "k=1024", "n=512", "scheme=static"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["language"] == "SASS"
    assert found["spills"] == 0
    assert 16 <= found["registers"] <= 48
    assert found["kinds"]["dp4a"] > 0
    assert found["kinds"]["global loads"] > 0
    assert found["macs"] == 512 * 1024
    assert found["bytes"] > 512 * 1024
    assert found["floor_us"] == pytest.approx(found["bytes"] / 2039e3)  # of an A100's memory
    assert found["occupancy"]["blocks"] >= 1
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "roofline floor" in text
    assert "A100" in text


@compiles
def test_a_declared_form(capsys: pytest.CaptureFixture[str]) -> None:
    from rtaccel.kernels._gpu.triton_aot import specializations

    name = specializations()[0].name
    assert main(["inspect", name, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == name
    assert found["registers"] > 0
    assert (found["bytes"], found["floor_us"]) == (None, None)
    assert main(["inspect", name]) == 0
    assert "roofline" not in capsys.readouterr().out
    assert main(["inspect", name, "--case", "rows=1"]) == 2


@compiles
def test_without_a_disassembler_ptx_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rtaccel.kernels._gpu import triton_aot

    def missing(cubin: bytes, shared_bytes: int) -> None:
        raise RuntimeError("Cannot find nvdisasm")

    monkeypatch.setattr(triton_aot, "read_cubin", missing)
    assert main(["inspect", "linear/triton_gemv", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["language"], found["registers"], found["occupancy"]) == ("PTX", None, None)
    assert "Cannot find nvdisasm" in found["note"]
    assert found["kinds"]["dp4a"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["linear/no_such_kernel"], "linear/portable_torch"),
        (["linear"], "linear/portable_torch"),
        (["linear/portable_torch"], "no compiled code"),
        (["linear/cpu_portable", "--case", "rows=1"], "--case"),
    ],
)
def test_what_cannot_be_inspected(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", *words]) == 2
    assert said in capsys.readouterr().err


@compiles
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--arch", "sm_70"], "sm_80"),
        (["--case", "rows=9", "k=64", "n=8", "scheme=static"], "for M <= 8"),
        (["--case", "rows=1", "k=64", "n=8", "scheme=float32"], "linear/triton_gemv on"),
        (["--case", "rows=1", "k=64"], "make_stage"),
    ],
)
def test_problems_that_a_kernel_does_not_take(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "linear/triton_gemv", *words]) == 2
    assert said in capsys.readouterr().err


OBJDUMP = """
cpu_kernel_avx2.cc.o:     file format elf64-x86-64

Disassembly of section .text:

0000000000000000 <_ZN3rta3runEv>:
   0:\t55                   \tpush   %rbp
   1:\tc4 e2 7d 18 07       \tvbroadcastss (%rdi),%ymm0
   6:\t62 f2 7d 48 50 c1    \tvpdpbusd %zmm1,%zmm0,%zmm0
   c:\tc5 fc 58 c1          \tvaddps %ymm1,%ymm0,%ymm0
  10:\t66 0f 1f 44 00 00    \tnopw   0x0(%rax,%rax,1)
  16:\tc3                   \tret
"""


def test_objdump_is_read() -> None:
    found = cpu.disassembled("linear/cpu_avx2", Path("cpu_kernel_avx2.cc.o"), OBJDUMP)
    assert found.instructions == {"push": 1, "vbroadcastss": 1, "vpdpbusd": 1, "vaddps": 1, "ret": 1}
    assert found.vectors == {"ymm": 2, "zmm": 1}
    assert found.kinds["int8 dot products"] == 1
    assert any("512 bits" in text for _, text in cpu.describe(found))


def native(name: str) -> Impl:
    return next(impl for impl in impls("cpu", "linear") if impl.name == name)


def test_object_files_are_found_by_name(tmp_path: Path) -> None:
    """By the operator, the idea and the set; those of a cross build, newer here, are another machine's."""
    header = Path(sys.executable).resolve().read_bytes()[:20]  # of this machine
    other = header[:18] + bytes([header[18] ^ 1, header[19]])
    for build, start in (("any", header), ("cross", other)):
        folder = tmp_path / "build" / build / "CMakeFiles" / "x.dir" / "kernels" / "linear"
        folder.mkdir(parents=True)
        for stem in ("cpu_kernel_portable", "cpu_int4_portable"):
            (folder / f"{stem}.cc.o").write_bytes(start)
    assert "any" in cpu.object_file(native("cpu_portable"), tmp_path).parts
    assert cpu.object_file(native("cpu_portable"), tmp_path).name == "cpu_kernel_portable.cc.o"
    assert cpu.object_file(native("cpu_int4_portable"), tmp_path).name == "cpu_int4_portable.cc.o"
    with pytest.raises(BackendUnavailable, match="object file"):
        cpu.object_file(replace(native("cpu_portable"), op="softmax"), tmp_path)


def test_a_kernel_of_this_build(capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("objdump") is None:
        pytest.skip("objdump is not installed (binutils)")
    try:
        cpu.object_file(native("cpu_portable"))
    except BackendUnavailable as error:
        pytest.skip(str(error))
    assert main(["inspect", "linear/cpu_portable", "--json"]) == 0
    assert sum(json.loads(capsys.readouterr().out)["instructions"].values()) > 100
