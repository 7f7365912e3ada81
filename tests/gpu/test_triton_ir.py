"""Every Triton kernel in its first representation, without a GPU: indices that do not wrap, bytes to be moved, the page."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rtaccel.core import settings

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed (pip install 'rtaccel[gpu]')", allow_module_level=True)
if settings.triton_interpret():
    pytest.skip("TRITON_INTERPRET=1: kernels are interpreted, there is no IR of them", allow_module_level=True)

import triton
import triton.language as tl

from rtaccel.kernels._gpu.triton_aot import compile_for, compile_kernel, read_cubin
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling
from rtaccel.kernels.linear.triton import dot
from tests.triton_checks import write_page
from tests.triton_checks.support import launches, machine_loads, moved
from tests.triton_checks.ttir import shared
from tests.triton_checks.ttir.parser import parse
from tests.triton_checks.ttir.ranges import faults
from tests.triton_checks.ttir.traffic import Traffic
from tests.triton_checks.ttir.wavefronts import Wavefronts

pytestmark = pytest.mark.usefixtures("kept_triton_cache")

DECLARED = launches.declared()
PAGE = write_page.PAGE.read_text().splitlines()


@pytest.mark.parametrize("found", DECLARED, ids=lambda d: d.spec.name)
def test_a_kernel_and_its_line_of_the_page(found: launches.Declared) -> None:
    """The launch with a tensor of more than 2^32 numbers has no index that may wrap; the launch as declared touches at most 1.1
    of what the contract says must be moved, or is an exception with a reason; no product fuses with a sum unasked. The page
    shows it."""
    name, record = found.spec.name, moved.record_of(found.spec.name)
    assert record.faults == (), name
    if name.startswith("sparse_"):  # each byte of the packed weights once
        assert (record.weights_again, record.grid is None) == (0, False), name
    assert record.touched > 0, name
    if record.exception is None and record.ratio is not None:
        assert record.ratio <= moved.MAX, f"{record}: mend it, or say why in EXCEPTIONS of triton_checks/moved.py"
    assert found.spec.options["enable_fp_fusion"] is False, name
    assert moved.compiled(name).metadata.enable_fp_fusion is False, name
    assert write_page.traffic(record) in PAGE, "run python tests/triton_checks/write_page.py"


def test_the_page_says_what_code_costs() -> None:
    assert "\n".join(write_page.costs()) in "\n".join(PAGE), "run python tests/triton_checks/write_page.py"
    moved_lines = PAGE[PAGE.index("|---|---|---|---|---|---|---|---|") + 1 : PAGE.index("## Wavefronts of loads") - 1]
    assert [line.split()[1] for line in moved_lines] == sorted(d.spec.name for d in DECLARED)


@pytest.mark.parametrize("name", moved.counted_names())
def test_lanes_read_side_by_side(name: str) -> None:
    """Each load of a kernel for few rows, or in tiles, takes at most a quarter more wavefronts than its bytes fill, or there is a
    reason. The page says how many."""
    for argument, counted in moved.wavefronts_of(name).items():
        assert counted.taken >= counted.lines, argument
        why, ratio = moved.apart(name, argument), moved.ratio(name, argument, counted)
        assert why or ratio <= moved.MAX_WAVEFRONTS, f"{argument}: {ratio:.2f}; mend it, or say why in moved.py"
    assert "\n".join(write_page.wavefronts(name)) in "\n".join(PAGE), "run python tests/triton_checks/write_page.py"


@pytest.mark.parametrize("reason", moved.SIDE_BY_SIDE, ids=lambda reason: f"{reason.start}-{reason.arguments[0]}")
def test_every_reason_is_needed(reason: moved.Apart) -> None:
    """Some form has such loads, of each argument that it names or of one of them."""
    names = [name for name in moved.counted_names() if name.startswith(reason.start)]
    both = [moved.wavefronts_of(name) for name in names] + [
        f.loads for name in names if (f := machine_loads.found(name))
    ]
    ratios = [of[argument].ratio for of in both for argument in reason.arguments if argument in of]
    assert max(ratios) > moved.MAX_WAVEFRONTS, names


@pytest.mark.turns(4)
@pytest.mark.parametrize("name", [name for name in moved.counted_names() if name.startswith("linear_wide")])
def test_weights_go_from_shared_memory_to_registers(name: str) -> None:
    """On compute capability 9.0: a wavefront for each 128 bytes, no other way for weights, and one product from registers
    for each 16 numbers along K."""
    spec = next(d.spec for d in DECLARED if d.spec.name == name)
    kernel = moved.compiled(name)
    found = shared.of_weights(kernel.asm["ttgir"], spec.tiling.num_warps)
    assert found.wavefronts == 4 * found.loads
    code = read_cubin(kernel.asm["cubin"], kernel.metadata.shared)
    assert code.count("LDSM") == found.loads
    assert code.count("HGMMA") == spec.tiling.block_k // spec.constants["BITS"]
    bytes_of_words = 4 * found.loads if spec.constants["BITS"] == 8 else 0  # every second byte of int8
    assert (
        code.count("I2F") == 0 and code.count("PRMT") < bytes_of_words + 4
    )  # nothing is converted, and no byte is moved


@pytest.mark.turns(4)
@pytest.mark.parametrize("name", [name for name in moved.counted_names() if name.startswith("linear_thirds")])
def test_weights_go_from_memory_to_registers(name: str) -> None:
    """By loads of 16 bytes, in the layout in which tensor cores take them. Shared memory has the columns of x, which `LDSM`
    reads, and later sums, which are smaller."""
    spec = next(d.spec for d in DECLARED if d.spec.name == name)
    kernel, c = moved.compiled(name), spec.constants
    code = read_cubin(kernel.asm["cubin"], kernel.metadata.shared)
    loads = c["BATCH"] * c["BLOCK_N"] * c["BLOCK_K"] // 8 // 32 // c["WARPS"]
    assert code.count(r"LDG\..*128") >= loads * (2 if c["STEPS"] > 1 else 1)
    assert kernel.metadata.shared == 4 * c["ROWS"] * spec.tiling.block_k * 2
    assert code.count("LDSM") <= max(c["ROWS"], 2) * spec.tiling.block_k // 512
    products = 4 * loads * (16 // c["BITS"]) // 4 * max(c["ROWS"] // 2, 1)
    assert code.count("HMMA") == products


def test_wavefronts_of_rows_that_share_banks() -> None:
    """Without a swizzle: eight rows of 64 bytes lie in two places of banks, those of 128 in one."""
    assert shared.wavefronts_of(shared.Swizzled(16, 2, 4), 128, 64, 8) == shared.Loads(2, 8)
    assert shared.wavefronts_of(shared.Swizzled(16, 2, 1), 128, 64, 8) == shared.Loads(2, 32)
    assert shared.wavefronts_of(shared.Swizzled(16, 1, 1), 128, 128, 8) == shared.Loads(4, 128)


@triton.jit
def apart(x_ptr, y_ptr, STRIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Words of 16 bytes, each STRIDE numbers behind the one before."""
    n = tl.arange(0, BLOCK)
    tl.store(y_ptr + n, tl.load(x_ptr + n // 4 * STRIDE + n % 4))


@pytest.mark.parametrize(("stride", "of_a_warp"), [(4, 4), (8, 8), (16, 16), (32, 32), (64, 32)])
def test_wavefronts_of_lanes_that_lie_apart(stride: int, of_a_warp: int) -> None:
    """A warp loads 512 bytes, 4 lines: 16 bytes a lane. With 32 numbers between lanes each has a line of its own."""
    types = {"x_ptr": "*fp32", "y_ptr": "*fp32"}
    spec = Specialisation(
        f"apart{stride}", apart, types, {"STRIDE": stride, "BLOCK": 128}, Tiling(1, 1, 1, num_warps=1)
    )
    counting = Wavefronts(compile_kernel(spec, 90).asm["ttgir"], (1, 1, 1), {})
    counting.of_program((0, 0, 0))
    x, y = counting.loads["x_ptr"], counting.stores["y_ptr"]
    assert (x.taken, x.least, x.widest, x.lines) == (of_a_warp, 4, 16, of_a_warp)
    assert (y.taken, y.least, y.widest) == (4, 4, 16)


def test_exceptions_are_needed() -> None:
    names = [d.spec.name for d in DECLARED]
    for start in moved.EXCEPTIONS:
        assert any(name.startswith(start) for name in names), start


def test_kernels_that_a_plan_launches_have_a_launch() -> None:
    for found in DECLARED:
        if found.spec.name.startswith(
            (
                "fused_gemv_", "linear_", "mlp_chain_", "mlp_partition_", "quantize_", "sparse_", "conv_window", "conv_grouped",
            )
        ):  # fmt: skip
            assert launches.launch_of(found) is not None, found.spec.name


def test_tensor_cores_are_those_of_the_card() -> None:
    """A tile of 64 rows is multiplied by wgmma on Hopper and by the tensor memory's instruction on Blackwell."""
    spec = next(s for s in dot.specializations() if s.tiling.block_m == 64)
    assert compile_for(spec, 90).count("IGMMA")
    assert compile_for(spec, 80).count("IMMA")
    if tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 9):  # 3.6 multiplies on the older unit there
        assert compile_for(spec, 100).count("UTCIMMA")


# -- the checks themselves, on kernels with planted faults --------------------------------------------------------------


@triton.jit
def rows_kernel(x_ptr, y_ptr, rows, K: tl.constexpr, WIDE: tl.constexpr, LOOP: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    if WIDE:
        row = row.to(tl.int64)
    k = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    base = row * K
    for k0 in range(0, K, BLOCK):
        total += tl.load(x_ptr + base + k0 + k, mask=k0 + k < K, other=0.0)
        if LOOP:
            base += 0
    if row < rows:
        tl.store(y_ptr + row + tl.arange(0, 1), tl.sum(total, 0) + tl.zeros((1,), tl.float32))


@triton.jit
def gather_kernel(at_ptr, x_ptr, y_ptr, SCALE: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    at = tl.load(at_ptr + i).to(tl.int32)
    tl.store(y_ptr + i, tl.load(x_ptr + at * SCALE))


@triton.jit
def stream_kernel(starts_ptr, x_ptr, y_ptr, MAX: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    row = tl.program_id(0) + tl.zeros((1,), tl.int32)
    first = tl.load(starts_ptr + row)
    units = tl.minimum(tl.maximum(tl.load(starts_ptr + row + 1) - first, 0), MAX)
    total = tl.zeros((BLOCK,), tl.float32)
    for k0 in range(0, tl.max(units, 0) * 8, BLOCK):
        total += tl.load(x_ptr + first.to(tl.int64) * 8 + k0 + i, mask=k0 + i < units * 8, other=0.0)
    tl.store(y_ptr + i, total)


def form(kernel: Any, signature: dict[str, str], **constants: Any) -> Specialisation:
    return Specialisation("planted", kernel, signature, constants, Tiling(1, 1, 1, num_warps=1))


def rows_form(k: int, wide: bool, loop: bool = False) -> Specialisation:
    return form(rows_kernel, {"x_ptr": "*fp32", "y_ptr": "*fp32", "rows": "i32"}, K=k, WIDE=wide, LOOP=loop, BLOCK=64)


@pytest.mark.parametrize("loop", [False, True])
def test_an_index_of_32_bits_is_found(loop: bool) -> None:
    """Row * K of 32 bits wraps where x has more than 2^31 numbers, and only there."""
    narrow = parse(compile_kernel(rows_form(1000, False, loop), 90).asm["ttir"])
    wide = parse(compile_kernel(rows_form(1000, True, loop), 90).asm["ttir"])
    rows = 2**31 // 1000 + 2
    assert faults(narrow, (rows - 100, 1, 1), {"rows": rows}) == []
    found = faults(narrow, (rows, 1, 1), {"rows": rows})
    assert found
    assert all("may wrap" in fault and "addptr" in fault for fault in found)
    assert faults(wide, (rows, 1, 1), {"rows": rows}) == []
    assert faults(wide, (2**31 - 1, 1, 1), {"rows": 2**31 - 1}) == []
    assert "does not launch" in faults(wide, (1, 65536, 1), {"rows": 1})[0]


def test_an_index_from_memory_that_is_scaled_too_far_is_found() -> None:
    """Whatever memory holds: 16 bits times 64 are an index of 32 bits, times 131072 they are not."""
    signature = {"at_ptr": "*i16", "x_ptr": "*fp32", "y_ptr": "*fp32"}
    near, far = (
        parse(compile_kernel(form(gather_kernel, signature, SCALE=s, BLOCK=32), 90).asm["ttir"]) for s in (64, 131072)
    )
    assert faults(near, (1, 1, 1), {}) == []
    assert faults(far, (1, 1, 1), {})


def test_a_loop_as_long_as_memory_says_is_counted_and_proven() -> None:
    """The length of each stream from its table, clamped: what it is scaled by later cannot wrap, and the bytes are exact."""
    signature = {"starts_ptr": "*i32", "x_ptr": "*fp32", "y_ptr": "*fp32"}
    clamped, raw = (
        parse(compile_kernel(form(stream_kernel, signature, MAX=m, BLOCK=32), 90).asm["ttir"]) for m in (100, 2**31 - 1)
    )
    assert faults(clamped, (2, 1, 1), {}) == []
    assert faults(raw, (2, 1, 1), {})
    counted = Traffic(clamped, (2, 1, 1), {}, {"starts_ptr": np.array([0, 3, 50])}).run()
    assert (counted["x_ptr"].read, counted["x_ptr"].touched) == (50 * 8 * 4, 50 * 8 * 4)
    assert counted["starts_ptr"].touched == 3 * 4


def test_bytes_are_counted_as_they_are() -> None:
    """100 numbers a row in steps of 64: each once, y once; a gather of 32 numbers as a whole."""
    function = parse(compile_kernel(rows_form(100, True), 90).asm["ttir"])
    counted = Traffic(function, (5, 1, 1), {"rows": 4}).run()
    assert (counted["x_ptr"].read, counted["x_ptr"].touched) == (5 * 100 * 4, 5 * 100 * 4)
    assert counted["y_ptr"].touched == 4 * 4
    signature = {"at_ptr": "*i32", "x_ptr": "*fp32", "y_ptr": "*fp32"}
    function = parse(compile_kernel(form(gather_kernel, signature, SCALE=1, BLOCK=32), 90).asm["ttir"])
    counted = Traffic(function, (3, 1, 1), {}).run()
    assert (counted["at_ptr"].read, counted["at_ptr"].touched) == (3 * 128, 128)
    assert counted["x_ptr"].read == 3 * 128


def test_fusion_would_be_seen() -> None:
    """The option is what keeps products and sums apart: with it on, the same kernel has fused ones."""

    class Fused(Specialisation):
        @property
        def options(self) -> dict[str, Any]:
            return {**super().options, "enable_fp_fusion": True}

    spec = next(s for s in dot.specializations() if "N33_K130" in s.name)
    plain = replace(spec, constants={**spec.constants, "ASM": False})
    fused = Fused(plain.name, plain.kernel, plain.signature, plain.constants, plain.tiling)
    assert compile_for(plain, 90).count("FFMA") == 0
    assert compile_for(fused, 90).count("FFMA") > 0
