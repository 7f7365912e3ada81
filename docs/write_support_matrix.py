"""Writes docs/reference/support-matrix.md: operators by scheme and device, as the registry has them.

    python docs/write_support_matrix.py [--check]

Each conformance case of an operator is offered to each kernel; a cell names the devices with a kernel that takes one. So
the page says what the kernels say themselves. With --check it writes nothing and fails where the page is not what it would write.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rtaccel.backends.cpu import isas
from rtaccel.convert.quantization.scheme_rules import available, takes_schemes
from rtaccel.core.registry import Impl, Operator, impls, operator, operators
from rtaccel.core.scheme import scheme_names
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.traits import Role
from rtaccel.core.weight_format import WeightFormat

PAGE = Path(__file__).parent / "reference" / "support-matrix.md"
BACKENDS = {"cpu": "CPU", "triton": "Triton", "numba_cuda": "Numba CUDA"}
"""Backend -> its name on the page. Kernels in plain torch (`portable`) exist for every row and are not listed."""

GRAPH = {"graph": "graph"}
"""What a CUDA graph does by itself."""

ROWS = (1, 4, 16, 128, 1 << 20)
"""Batch sizes that kernels are asked for: some take few rows alone, some many alone."""

COLUMNS = (
    "float32", "bfloat16", "W8A16", "W4A16", "W8A8 static", "W8A8 dynamic", "W4A8 static", "W4A8 dynamic", "float8",
)  # fmt: skip
Found = dict[str, dict[str, set[str]]]
"""Column -> backend -> kernels, instruction sets left out."""

HEAD = """# Support matrix

Written by `python docs/write_support_matrix.py`; a test holds it up to date. It comes from the registry: each conformance case of
an operator is offered to each kernel. A cell names the devices with a kernel that takes it.

- `CPU`: the native core, on every [instruction set](kernels.md#instruction-sets).
- `Triton`: NVIDIA GPUs. No GPU has run these kernels yet: see
  [how they are checked](../explanation/gpu-kernels-design.md#how-it-is-checked-without-a-gpu).
- `Numba CUDA`: NVIDIA GPUs; tried after Triton, or alone with `backend="numba_cuda"`.
- `graph`: no kernel is needed on a GPU. A CUDA graph copies the state as memory, or the stage before writes it in place.
- `torch`: plain PyTorch alone, on any device. Every operator has such a kernel, `portable`.
- `-`: the operator has no conformance case in this scheme.

Persistent kernels (`mode="persistent"`, `rt.stream(device="cuda")`) are not in the registry: see
[the persistent path](../how-to/gpu.md#keep-a-model-on-the-gpu). `fused_linear`, `fused_sparse_linear` and `mlp` are for GPUs
alone.
"""


def scheme_of(stage: Stage) -> str:
    """The column of a stage with weights."""
    weights = operator(stage.op).weights
    assert weights is not None
    first = weights.matrices(stage.tensors)[0]
    dtype = str(stage.tensors[first].dtype).removeprefix("torch.")
    if dtype.startswith("float8"):
        return "float8"
    if dtype in ("float32", "bfloat16"):
        return dtype
    x, attrs = stage.inputs[0], stage.attrs
    bits = f"W{WeightFormat.of(stage.tensors[first].dtype).bits}"
    if x.quant is not None or "x_scale" in attrs or weights.inside == "static":
        return f"{bits}A8 static"  # of float32 inputs, the kernel makes them int8 itself
    rows = x.dtype == "int8" or attrs.get("input_format") == "int8" or weights.inside == "dynamic"
    return f"{bits}A8 dynamic" if rows else f"{bits}A16"


def values_of(stage: Stage) -> str:
    """The column of a stage without weights: what it reads and writes."""
    return f"{stage.inputs[0].dtype} to {stage.outputs[0].dtype}"


def family(name: str) -> str:
    """A kernel's name without its instruction set."""
    return next((name.removesuffix(f"_{isa}") for isa in isas() if name.endswith(f"_{isa}")), name)


def takes(impl: Impl, contract: Operator, stage: Stage) -> bool:
    device = "cpu" if impl.backend == "cpu" else "cuda"
    shown = stage.matrices() if contract.by_row else stage
    return any(impl.supports(Problem.of(shown, rows, device)) is None for rows in ROWS)


def survey(contract: Operator, kernels: Iterable[Impl]) -> Found:
    found: Found = {}
    column = values_of if contract.weights is None else scheme_of
    cases: dict[str, list[Stage]] = {}
    for case in contract.cases():
        cases.setdefault(column(case.stage), []).append(case.stage)
    mine = [i for i in kernels if i.op == contract.name]
    portable = {i.name for i in mine if i.name.endswith("_portable")}
    for name, stages in cases.items():
        by: dict[str, set[str]] = {}
        for impl in mine:
            if impl.backend == "cpu" and portable and impl.name not in portable:
                continue  # the portable one answers for its family, whatever this CPU has
            if any(takes(impl, contract, stage) for stage in stages):
                by.setdefault(impl.backend, set()).add(family(impl.name))
        if contract.role is Role.KEEP:
            by["graph"] = set()
        found[name] = by
    return found


def cell(found: Found, column: str) -> str:
    if column not in found:
        return "-"
    return ", ".join(title for backend, title in (BACKENDS | GRAPH).items() if backend in found[column]) or "torch"


def matrix(surveys: Mapping[str, Found], names: Iterable[str], columns: Iterable[str]) -> list[str]:
    columns = list(columns)
    lines = [f"| operator | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    return lines + [f"| `{n}` | {' | '.join(cell(surveys[n], c) for c in columns)} |" for n in names]


def chosen() -> list[str]:
    """What `rt.compile` takes for each scheme that is asked for."""
    layers = sorted(name for name, contract in operators().items() if takes_schemes(contract))
    lines = [f"| asked for | {' | '.join(f'`{op}`' for op in layers)} |", "|---" * (len(layers) + 1) + "|"]
    for name, scheme in sorted(scheme_names().items()):
        used = (available(op, "", scheme(), []) for op in layers)
        lines.append(f"| `{name}` | {' | '.join(s.name for s in used)} |")
    return lines


def kernels_of(surveys: Mapping[str, Found]) -> list[str]:
    lines = ["| operator | scheme or values | CPU | Triton | Numba CUDA |", "|---|---|---|---|---|"]
    for op, found in surveys.items():
        for column, by in found.items():
            cells = (", ".join(f"`{k}`" for k in sorted(by.get(backend, ()))) or "-" for backend in BACKENDS)
            lines.append(f"| `{op}` | {column} | {' | '.join(cells)} |")
    return lines


def render() -> str:
    found = operators()
    kernels = [impl for backend in BACKENDS for impl in impls(backend)]
    weighted = sorted(name for name, contract in found.items() if contract.weights is not None)
    plain = sorted(set(found) - {*weighted})
    surveys = {name: survey(found[name], kernels) for name in (*weighted, *plain)}
    values = sorted({column for name in plain for column in surveys[name]})
    parts = [
        HEAD.rstrip(), "## Operators with weights", "\n".join(matrix(surveys, weighted, COLUMNS)),
        "## Operators without weights", "\n".join(matrix(surveys, plain, values)),
        "## The scheme that rt.compile uses",
        "A layer without a kernel for a scheme takes the nearest one, and a note of `explain()` says so.",
        "\n".join(chosen()), "## Kernels",
        "CPU names are without the instruction set. `linear` has `cpu_amx` too, where the CPU has AMX.",
        "\n".join(kernels_of(surveys)),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def main(check: bool) -> None:
    page = render()
    if not check:
        PAGE.write_text(page)
    elif PAGE.read_text() != page:
        sys.exit(f"{PAGE.name} is not what its command writes: run python docs/write_support_matrix.py")


if __name__ == "__main__":
    main("--check" in sys.argv[1:])
