"""What each declared kernel moves beside what it must, and the kernels that move more, with the reason.

minimum: `cost` of the operator's contract: weights with their scales, bias and multiplier, x and y, once each; of a sparse layer
what its launch is given, once: the weights as they are packed. Left out of what
is compared is scratch between programs (the parts of a split sum): written and read within a launch, it stays in L2.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

from rtaccel.core.registry import operator
from rtaccel.core.stage import Problem
from rtaccel.kernels._gpu.triton_aot import compile_kernel
from tests.triton_checks.support import launches
from tests.triton_checks.support.launches import Declared
from tests.triton_checks.ttir.parser import Function, parse
from tests.triton_checks.ttir.ranges import TABLES, faults
from tests.triton_checks.ttir.traffic import Traffic
from tests.triton_checks.ttir.wavefronts import Counted, Wavefronts

MAX = 1.1
WEIGHTS = ("weight_ptr", "metadata_ptr", "scale_ptr")
"""Of a sparse layer; the columns of tall blocks are read by each program that computes outputs of them."""

INDICES = (*TABLES, "metadata_ptr")
"""Arguments whose numbers say what a sparse kernel reads next."""

SCRATCH = ("work_ptr", "count_ptr", "control_ptr", "barrier_ptr")
EXCEPTIONS = {
    "cached_attention_": "a form gives its states anew: each kept number is read and written; one in place reads what it writes",
    "conv_stream_M1_": "of a layer of 64 outputs with three products each, what starts their sums counts",
    "conv_stream_M64_": "where a column lies is computed, so what four programs read of the ring counts four times; from L2",
    "conv_window_M16_1x64_C48_N48_1x3": "rows of x come from a table, and every lane of such a load is counted",
    "fourier_": "the matrices of roots are read too",
    "grid_sample_": "where a tap reads is computed, so every tap counts as another number; neighbors share theirs, from L1",
    "linear_blas_": "its product is cuBLAS's, whose sums the kernel reads",
    "linear_dot_M16_N33_K130": "rows of 130 bytes are padded to 144",
    "linear_scan_step_": "y goes to the state, too, for the next step",
    "linear_scan_wide_step_": "y goes to the state, too, for the next step",
    "norm_": "weight and bias are read too, and a sum is written; what sums a row reads it for itself, from L1",
    "null_": "computes nothing: a word each way",
}
"""Start of a name -> why its bytes are more than 1.1 of the minimum, or have none."""

WITHOUT_LAUNCH = 1024
"""Programs of a kernel whose launch is not known: those that stay, or wait for each other, are no more than a card holds."""

NEWEST = 90
"""Compute capability that the IR is made for; TTIR is the same for all."""


@dataclass(frozen=True)
class Record:
    """grid: None where no launch is known (persistent kernels, forms declared from another stage than their own); then there is
    no minimum, unless every program is the same. bytes of the whole launch; scratch: between programs; read_again: what programs
    ask for beyond the first time, from L2. weights_again: of that the weights of a sparse layer with their places and scales;
    None for any other."""

    name: str
    grid: tuple[int, int, int] | None
    touched: int
    minimum: int | None
    scratch: int
    read_again: int
    faults: tuple[str, ...]
    weights_again: int | None

    @property
    def ratio(self) -> float | None:
        return self.touched / self.minimum if self.minimum else None

    @property
    def exception(self) -> str | None:
        return next((why for start, why in EXCEPTIONS.items() if self.name.startswith(start)), None)


@functools.cache
def compiled(name: str) -> Any:
    """triton's CompiledKernel."""
    spec = next(d.spec for d in launches.declared() if d.spec.name == name)
    return compile_kernel(spec, max(NEWEST, spec.oldest))


@functools.cache
def record_of(name: str) -> Record:
    return record(next(d for d in launches.declared() if d.spec.name == name))


def record(found: Declared) -> Record:
    function = parse(compiled(found.spec.name).asm["ttir"])
    launch = launches.launch_of(found)
    grid, scalars = (launch.grid, launch.scalars) if launch else ((1, 1, 1), {})
    moved = Traffic(function, grid, scalars, tables_of(launch)).run()
    minimum, stage = None, launches.stage_of(found)
    if stage is not None and (launch is not None or not _uses_program_ids(found)):
        minimum = operator(stage.op).cost(Problem.of(stage, found.rows)).bytes
    sparse = launch is not None and stage is not None and "sparse" in stage.op
    if launch is not None and sparse:
        minimum = sum(t.numel() * t.element_size() for t in launch.tensors.values())
    own = {name: m for name, m in moved.items() if name not in SCRATCH}
    return Record(
        name=found.spec.name,
        grid=launch.grid if launch else None,
        touched=round(sum(m.touched for m in own.values())),
        minimum=minimum,
        scratch=round(sum(m.touched for name, m in moved.items() if name in SCRATCH)),
        read_again=round(sum(m.read - m.touched for m in own.values())),
        faults=tuple(index_faults(found, function)),
        weights_again=round(sum(moved[n].read - moved[n].touched for n in WEIGHTS if n in moved)) if sparse else None,
    )


def tables_of(launch: Any) -> dict[str, Any]:
    """What the launch is given of numbers that say what is read next."""
    tensors = launch.tensors if launch else {}
    return {n: t.numpy().ravel() for n, t in tensors.items() if n in INDICES and not t.is_meta}


def index_faults(found: Declared, function: Function) -> list[str]:
    """Of a launch whose largest tensor has more than 2^32 numbers, where a launch is known."""
    stage = launches.stage_of(found)
    if stage is not None:
        launch = launches.launch_of(found, launches.rows_beyond_32_bits(stage))
        if launch is not None:
            return faults(function, launch.grid, launch.scalars)
    return faults(function, (WITHOUT_LAUNCH, 1, 1), {})


COUNTED = (
    "gemv", "linear_thirds", "linear_wide", "linear_rows", "linear_float32", "linear_mixed", "linear_dot", "sparse_semi",
    "sparse_spmm", "sparse_dot", "matmul_", "mlp_chain", "mlp_partition", "_float32_held", "_float32_read", "_float32_alone",
    "attention_T1_", "cached_attention",
)  # fmt: skip
"""In the name of a kernel that reads each weight, or each kept number, for few rows, or for many in tiles: all of its loads are
counted. Of sparse layers the columns are those of real weights, so gathers are counted, too."""

MAX_WAVEFRONTS = 1.25


@dataclass(frozen=True)
class Apart:
    """start: of a name. arguments: whose loads take more wavefronts than that, of the least. why: they do."""

    start: str
    arguments: tuple[str, ...]
    why: str


BEGIN = "rows begin at any number, and a lane has one"
SIDE_BY_SIDE: tuple[Apart, ...] = (
    Apart("attention_T1_", ("q_ptr", "k_ptr", "v_ptr"), BEGIN),
    Apart("cached_attention_", ("k_ptr", "v_ptr"), BEGIN),
    Apart("cached_attention_", ("keys_ptr", "values_ptr"), "a step has 64 bytes of a row of one head"),
    Apart("linear_dot_M16_N33_K130", ("weight_ptr",), "rows of 130 bytes are padded to 144"),
    Apart(
        "linear_dot_M64_N384_K96", ("x_ptr", "weight_ptr"), "rows of 96 bytes follow each other, so one in two meets a line more"
    ),
    Apart("linear_float32_M64_N1024_K64", ("x_ptr", "weight_ptr"), "a step has 64 bytes of a row, for many rows"),
    Apart("linear_mixed_M16_bf16_a16_N128_K640", ("x_ptr",), "a lane has eight numbers of x, as it has of weights: 32 bytes"),
    Apart("linear_mixed_M16_int4_g32_a8", ("x_ptr",), "a step has the 32 bytes of x of one group"),
    Apart("linear_wide_M64_int4_g32_a16", ("x_ptr",), "a load has the 32 numbers of a group, 64 bytes of a row of bfloat16 x"),
    Apart("mlp_chain_128-128", ("params_ptr",), "numbers of a layer begin where those of the one before end"),
)  # fmt: skip


GATHERED = ("sparse_dot", "sparse_spmm")
"""Start of the names of kernels that read x where columns say."""


def ratio(name: str, argument: str, counted: Counted) -> float:
    """Wavefronts, of the least there could be. What columns select from x lies in lines that the kernel does not choose. A
    wavefront is of one line, so a program takes at least one for each line in which it has columns."""
    lines = counted.lines if argument == "x_ptr" and name.startswith(GATHERED) else 0
    return counted.taken / max(counted.least, lines, 1)


def apart(name: str, argument: str) -> str:
    """Why the loads of an argument may take more, or ""."""
    return next((a.why for a in SIDE_BY_SIDE if name.startswith(a.start) and argument in a.arguments), "")


def declared_as(name: str) -> Declared:
    return next(d for d in launches.declared() if d.spec.name == name)


@functools.cache
def without_pipeline(name: str) -> Any:
    """The kernel with loads in the place of copies to shared memory."""
    spec = declared_as(name).spec
    plain = replace(spec, tiling=replace(spec.tiling, num_stages=1))
    return compiled(name) if plain == spec else compile_kernel(plain, NEWEST)


def programs_of(grid: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """The first program of a launch, and one in its middle."""
    x, y, z = grid
    return sorted({(0, 0, 0), (x // 2, y // 2, z // 2)})


@functools.cache
def wavefronts_of(name: str) -> dict[str, Counted]:
    """Loads by argument, in the first program and in one in the middle of the grid. Copies to shared memory are counted as the
    loads that they are without a pipeline, which have the same lanes."""
    launch = launches.launch_of(declared_as(name))
    assert launch is not None, name
    counting = Wavefronts(without_pipeline(name).asm["ttgir"], launch.grid, launch.scalars, tables_of(launch))
    for program in programs_of(launch.grid):
        counting.of_program(program)
    return counting.loads


def counted_names() -> list[str]:
    return sorted(d.spec.name for d in launches.declared() if any(part in d.spec.name for part in COUNTED))


def _uses_program_ids(found: Declared) -> bool:
    return "tt.get_program_id" in compiled(found.spec.name).asm["ttir"]
