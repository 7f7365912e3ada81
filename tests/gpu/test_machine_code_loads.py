"""Loads in machine code: run for the threads of a block, and held against those of TTGIR and a limit."""

from __future__ import annotations

import importlib.util
import re

import numpy as np
import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed (pip install 'rtaccel[gpu]')", allow_module_level=True)

from rtaccel.kernels._gpu.triton_aot import code_of, compile_kernel, text_of
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling
from tests.gpu.test_triton_ir import apart
from tests.triton_checks.sass import loads
from tests.triton_checks.sass.instructions import Unsupported, program
from tests.triton_checks.sass.machine import Machine
from tests.triton_checks.sass.values import Number
from tests.triton_checks.support import machine_loads, moved
from tests.triton_checks.ttir.wavefronts import Wavefronts

pytestmark = pytest.mark.usefixtures("kept_triton_cache")

MORE = {
    ("mlp_chain", "params_ptr"): "one number for all threads is a load as well",
    ("sparse_semi_gemv_M1_bfloat16", "metadata_ptr"): "the compiler reads two neighboring bytes apart",
}
"""Start of a name and an argument -> why the machine code takes more than TTGIR."""


@pytest.mark.parametrize("name", moved.counted_names())
def test_machine_code_reads_as_ttgir_says(name: str) -> None:
    """Weights exactly so; of other arguments no more, as the assembler joins loads of one address. None takes more than a quarter
    above the least without a reason."""
    found = machine_loads.found(name)
    if found is None:
        pytest.skip(machine_loads.reason(name, machine_loads.NOT_RUN))
    assert found.lost == 0 or machine_loads.reason(name, machine_loads.LOST), f"{found.lost} loads of unknown addresses"
    in_ttgir = moved.wavefronts_of(name)
    for argument, counted in found.loads.items():
        ratio = moved.ratio(name, argument, counted)
        assert ratio <= moved.MAX_WAVEFRONTS or moved.apart(name, argument), f"{argument}: {ratio:.2f}"
        before = in_ttgir.get(argument)
        if before is None:  # in a layout of tensor cores, or one for all threads
            continue
        more = any(name.startswith(start) and argument == of for start, of in MORE)
        assert counted.taken <= before.taken or more, f"{argument}: {counted.taken} for {before.taken}"
        assert argument != "weight_ptr" or (counted.taken, counted.least) == (before.taken, before.least)
    assert not found.lost or in_ttgir.keys() - found.loads.keys() <= {"work_ptr"}


def test_reasons_are_needed() -> None:
    names = moved.counted_names()
    for part in machine_loads.NOT_RUN:
        assert any(part in name for name in names), part
    for (start, argument), why in MORE.items():
        known = [n for n in names if n.startswith(start)]
        taken = [(machine_loads.found(n), moved.wavefronts_of(n)) for n in known]
        assert any(f and f.loads[argument].taken > w[argument].taken for f, w in taken if f and argument in w), why


def spec_of(stride: int) -> Specialisation:
    types = {"x_ptr": "*fp32", "y_ptr": "*fp32"}
    return Specialisation(
        f"apart{stride}", apart, types, {"STRIDE": stride, "BLOCK": 128}, Tiling(1, 1, 1, num_warps=1)
    )


@pytest.mark.parametrize(("stride", "of_a_warp"), [(4, 4), (8, 8), (16, 16), (32, 32), (64, 32)])
def test_lanes_that_lie_apart(stride: int, of_a_warp: int) -> None:
    """The same count from the machine code as from TTGIR, 16 bytes a lane."""
    spec = spec_of(stride)
    found, lost = loads.counted(code_of(spec, 90), 1, spec.signature, {}, [(0, 0, 0)])
    x = found["x_ptr"]
    assert lost == 0 and (x.taken, x.least, x.widest) == (of_a_warp, 4, 16)
    counting = Wavefronts(compile_kernel(spec, 90).asm["ttgir"], (1, 1, 1), {})
    counting.of_program((0, 0, 0))
    assert counting.loads["x_ptr"] == x


def test_another_shift_in_the_code_is_another_count() -> None:
    """Of a stored layer: where lanes lie twice as far apart in the code, its loads take more, whatever TTGIR says."""
    name = "linear_gemv_M1_N1024_K1024_dynamic_gelu_float32"
    text, spec = text_of(moved.compiled(name).asm["cubin"]), moved.declared_as(name).spec
    scalars = {"rows": 1, "y_zero_point": 0}
    plain, _ = loads.counted(text, spec.tiling.num_warps, spec.signature, scalars, [(0, 0, 0)])
    wide = re.sub(r"(IMAD\.WIDE\.U32 R\d+, R\d+(?:\.reuse)?, )0x4,", r"\g<1>0x40,", text)
    assert wide != text
    changed, _ = loads.counted(wide, spec.tiling.num_warps, spec.signature, scalars, [(0, 0, 0)])
    assert plain["weight_ptr"].ratio == 1 and changed["weight_ptr"].ratio > 4


# -- single instructions -----------------------------------------------------------------------------------------------


def ran(
    *lines: str, threads: int = 32, constants: dict[int, int] | None = None, memory: bytes | None = None
) -> Machine:
    text = "".join(
        f"{line}\n" if line.startswith(".L") else f"        /*{16 * n:04x}*/                   {line} ;\n"
        for n, line in enumerate(lines)
    )
    machine = Machine(text, threads, constants or {}, (3, 5, 7), {} if memory is None else {0: memory})
    machine.run()
    return machine


def value(machine: Machine, name: str) -> int:
    found = machine.number(name)
    assert found.known.all() and (found.bits == found.bits[0]).all(), name
    return int(found.bits[0])


@pytest.mark.parametrize(
    ("lines", "register", "wanted"),
    [
        (("MOV R1, 0xffffffff", "IADD3 R2, P0, R1, 0x3, RZ", "IADD3.X R3, RZ, RZ, 0x10, P0, !PT"), "R3", 0x11),
        (("MOV R1, 0x5", "IADD3 R2, R1, -R1, 0x7"), "R2", 7),
        (("MOV R1, 0x5", "IADD3 R2, P0, -R1, 0x5, RZ", "IADD3.X R3, ~RZ, RZ, RZ, P0, !PT"), "R3", 0),
        (("MOV R1, -0x2", "IMAD R2, R1, 0x3, RZ"), "R2", 2**32 - 6),
        (("MOV R1, -0x2", "IMAD.WIDE.U32 R2, R1, 0x4, RZ"), "R3", 3),
        (("MOV R1, -0x2", "IMAD.WIDE R2, R1, 0x4, RZ"), "R3", 2**32 - 1),
        (("MOV R1, 0x80000001", "IMAD.HI.U32 R2, R1, 0x8, RZ"), "R2", 4),
        (("MOV R1, 0x90000000", "LEA R2, P0, R1, 0x8, 0x2", "LEA.HI.X R3, R1, 0x1, RZ, 0x2, P0"), "R3", 3),
        (("MOV R1, -0x1", "MOV R4, 0x40", "LEA R2, P0, R1, R4, 0x4", "LEA.HI.X.SX32 R3, R1, RZ, 0x4, P0"), "R3", 0),
        (("MOV R1, 0x123", "LEA.HI R2, R1, 0x5, RZ, 0x1c"), "R2", 0x12 + 5),
        (("MOV R1, 0x80000000", "SHF.R.S32.HI R2, RZ, 0x1f, R1"), "R2", 2**32 - 1),
        (("MOV R1, 0x80000000", "SHF.R.U32.HI R2, RZ, 0x1f, R1"), "R2", 1),
        (("MOV R1, 0x80000000", "SHF.L.U64.HI R2, R1, 0x2, 0x1"), "R2", 6),
        (("MOV R1, 0xf0", "LOP3.LUT R2, R1, 0x3c, 0xff, 0x6c, !PT"), "R2", None),
        (("MOV R1, 0x1f", "SGXT R2, R1, 0x5"), "R2", 2**32 - 1),
        (("MOV R1, 0x1f", "SGXT.U32 R2, R1, 0x4"), "R2", 15),
        (("MOV R1, 0x04030201", "PRMT R2, R1, 0x7610, RZ"), "R2", 0x0201),
        (("HFMA2.MMA R2, -RZ, RZ, 0, 5.9604644775390625e-08",), "R2", 1),
        (("MOV R1, -0x5", "VIMNMX R2, R1, 0x3, PT"), "R2", 2**32 - 5),
        (("MOV R1, -0x5", "VIMNMX.U32 R2, R1, 0x3, PT"), "R2", 3),
        (("MOV R1, -0x5", "VIADDMNMX.U32 R2, R1, 0x7, 0x9, PT"), "R2", 2),
        (("S2R R1, SR_CTAID.Y", "S2UR UR2, SR_CTAID.Z", "IADD3 R2, R1, UR2, RZ"), "R2", 12),
        (("LDC.64 R2, c[0x0][0x210]",), "R3", 9),
        (("MOV R2, 0x1", "ISETP.LT.U32.AND P0, PT, RZ, 0x1, PT", "@!P0 MOV R2, 0x7", "SEL R3, R2, 0x9, P0"), "R3", 1),
        (("MOV R2, 0x1", "ISETP.GE.U32.AND P0, PT, RZ, 0x1, PT", "ISETP.GE.AND.EX P0, PT, R2, RZ, PT, P0",
          "SEL R3, 0x1, 0x2, P0"), "R3", 1),
        (("ISETP.NE.AND P1, PT, RZ, RZ, PT", "PLOP3.LUT P0, PT, PT, P1, PT, 0x80, 0x0", "SEL R3, 0x1, 0x2, P0"), "R3", 2),
        (("S2R R1, SR_TID.X", "REDUX.MAX.S32 UR4, R1", "MOV R2, UR4"), "R2", 31),
        (("MOV R1, 0x10", "MOV R4, 0x77", "STS [R1+0x20], R4", "LDS R2, [R1+0x20]"), "R2", 0x77),
    ],
)  # fmt: skip
def test_an_instruction(lines: tuple[str, ...], register: str, wanted: int | None) -> None:
    guarded = [line.replace("@!P0 ", "") if line.startswith("@") else line for line in lines]
    text = "".join(
        f"        /*{16 * n:04x}*/ {'@!P0' if line.startswith('@') else ''} {plain} ;\n"
        for n, (line, plain) in enumerate(zip(lines, guarded))
    )
    machine = Machine(text, 32, {0x210: 8, 0x214: 9}, (3, 5, 7))
    machine.run()
    if wanted is None:  # 0x6c = (a & b) ^ c, bit by bit, by the table's own definition
        a, b, c = 0xF0, 0x3C, 0xFF
        wanted = sum(((0x6C >> (4 * (a >> n & 1) + 2 * (b >> n & 1) + (c >> n & 1))) & 1) << n for n in range(32))
    assert value(machine, register) == wanted


def test_what_memory_holds_is_unknown_unless_it_is_given() -> None:
    lines = ("MOV R2, 0x8", "MOV R3, 0x100", "LDG.E R4, desc[UR4][R2.64+0x4]", "IADD3 R5, R4, 0x1, RZ")
    assert not ran(*lines).number("R5").known.any()
    known = ran(*lines, memory=np.arange(16, dtype=np.int32).tobytes())
    assert value(known, "R5") == 3 + 1 and [load.argument for load in known.loads] == [0]


def test_a_load_of_an_unknown_address_is_lost_and_overwrites_its_own_address() -> None:
    machine = ran("MOV R2, RZ", "MOV R3, 0x100", "LDG.E.64 R2, desc[UR4][R2.64]", "LDG.E R4, desc[UR4][R2.64]")
    assert len(machine.loads) == 1 and machine.lost == 1


def test_threads_that_part_meet_again() -> None:
    machine = ran(
        "S2R R1, SR_TID.X", "MOV R2, 0x1", "ISETP.LT.U32.AND P0, PT, R1, 0x8, PT", "NOP", "IADD3 R2, R2, 0x5, RZ", ".L_x_9:",
        "IADD3 R2, R2, 0x10, RZ",
    )  # fmt: skip
    assert value(machine, "R2") == 22
    text = "        /*0000*/ S2R R1, SR_TID.X ;\n        /*0010*/ MOV R2, 0x1 ;\n"
    text += "        /*0020*/ ISETP.LT.U32.AND P0, PT, R1, 0x8, PT ;\n        /*0030*/ @P0 BRA `(.L_x_9) ;\n"
    text += "        /*0040*/ IADD3 R2, R2, 0x5, RZ ;\n.L_x_9:\n        /*0050*/ IADD3 R2, R2, 0x10, RZ ;\n"
    machine = Machine(text, 32, {}, (0, 0, 0))
    machine.run()
    assert machine.number("R2").bits.tolist() == [17] * 8 + [22] * 24
    back = Machine(".L_x_9:\n" + text.replace(".L_x_9:\n", ""), 32, {}, (0, 0, 0))
    with pytest.raises(Unsupported, match="part"):
        back.run()


def test_code_is_read_with_its_guards_and_labels() -> None:
    code, labels = program(
        ".L_x_0:\n  /*0010*/  @!P0 LDG.E.128 R16, desc[UR8][R28.64+0x200] ;\n  /*0020*/ BRA `(.L_x_0);\n"
    )
    assert [i.guard for i in code] == ["!P0", "PT"] and labels == {".L_x_0": 0}
    assert code[0].operands == ("R16", "desc[UR8][R28.64+0x200]")
    assert Number.of(-1, 2).signed.tolist() == [-1, -1]
