"""The header that says what a build for one model compiles: kernels/_core/wanted.h has what each macro means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rtaccel.deploy.reading import PlanRead

LONG = 512
"""kSumRun of kernels/_common/long_sums.h."""


def everything(*, threads: bool = True) -> str:
    """A header that leaves nothing out."""
    return _PREAMBLE + "\n".join(
        f"#define {name} {value}"
        for name, value in (
            ("RTA_WANTS(op, word)", "true"),
            ("RTA_WANTS_KERNEL(isa, op, stem)", "true"),
            ("RTA_WANTS_ACTIVATION(name)", "true"),
            ("RTA_WANTS_TILE(lanes, most, vectors)", "true"),
            ("RTA_WANTS_END(int8, lanes, most, vectors)", "true"),
            ("RTA_WANTS_PAIRS(lanes, most, pairs)", "true"),
            ("RTA_MOST_SAMPLES", "INT64_MAX"),
            ("RTA_MOST_ROWS", "INT64_MAX"),
            ("RTA_WANTS_FAR_WEIGHTS", "true"),
            ("RTA_WANTS_THREADS", str(threads).lower()),
        )
    ) + "\n"  # fmt: skip


def header(
    plan: PlanRead, chosen: Sequence[tuple[str, str, str]], threads: bool, sets: Iterable[tuple[str, str, str]] | None
) -> str:
    """chosen: (operator, kernel, its stem) that are to be compiled. threads: whether a plan may have more than one. sets:
    (operator, stem, instruction set) that are to be; None: every set that is compiled has all of its own.

    Words of forms: the name of an attribute that is a whole number and not 0, with " > 1" where it is more, and "one output"
    where a row of the result has one element; "1 outputs" to "8 outputs" with weights of float32; "long sums" of rows of more
    than LONG numbers.
    """
    words = {(op, stem) for op, _, stem in chosen}
    for stage in plan.stages:
        words.add((stage.op, stage.weight_dtype))
        if stage.weight_dtype == "uint8":
            words.add((stage.op, f"int4_of_{stage.inputs[0].dtype}"))
        width = stage.outputs[0].width
        words |= {(stage.op, "one output")} if width == 1 else set()
        words |= {(stage.op, f"{width} outputs")} if width <= 8 and stage.weight_dtype == "float32" else set()
        words |= {(stage.op, "long sums")} if stage.inputs and stage.inputs[0].width > LONG else set()
        for name, value in stage.attrs.items():
            if isinstance(value, int) and value:
                words |= {(stage.op, name), (stage.op, f"{name} > 1")} if value > 1 else {(stage.op, name)}
    activations = {value for stage in plan.stages for value in stage.attrs.values() if isinstance(value, str)}
    widths = {stage.outputs[0].width for stage in plan.stages if stage.weight_dtype}
    bytes_out = {s.outputs[0].width for s in plan.stages if s.weight_dtype and s.outputs[0].dtype == "int8"}
    floats_out = {s.outputs[0].width for s in plan.stages if s.weight_dtype and s.outputs[0].dtype != "int8"}
    samples, rows = _limits(plan)
    if sets is None:
        kernels = "wants(op, stem)"
    else:
        kernels = _any(
            f'(same_text(op, "{op}") && same_text(stem, "{stem}") && same_text(set_name(isa), "{name}"))'
            for op, stem, name in sorted(set(sets))
        )
    return f"""{_PREAMBLE}#include "_core/isa.h"
namespace rta {{
static constexpr bool same_text(const char* a, const char* b) {{
  while (*a && *a == *b) ++a, ++b;
  return *a == *b;
}}
static constexpr bool wants(const char* op, const char* word) {{
  return {_any(f'(same_text(op, "{op}") && same_text(word, "{word}"))' for op, word in sorted(words))};
}}
static constexpr const char* set_name(Isa isa) {{
  switch (isa) {{
#define RTA_ISA(enumerator, name, parent, processor, present) case Isa::enumerator: return name;
#include "_core/isa.def"
#undef RTA_ISA
    default: return "";
  }}
}}
static constexpr bool wants_kernel([[maybe_unused]] Isa isa, const char* op, const char* stem) {{
  return {kernels};
}}
static constexpr bool wants_activation(const char* name) {{
  return {_any(f'same_text(name, "{name}")' for name in sorted(activations))};
}}
static constexpr bool tiled_so(int64_t vectors, int64_t most, int64_t tile) {{
  return (tile == most && vectors > most) || tile == (vectors - 1) % most + 1;
}}
static constexpr bool wants_tile(int64_t lanes, int64_t most, int64_t tile) {{
  return {_tiles(widths)};
}}
static constexpr bool wants_end(bool int8, int64_t lanes, int64_t most, int64_t tile) {{
  return int8 ? {_tiles(bytes_out)}
              : {_tiles(floats_out)};
}}
static constexpr bool paired_so(int64_t all, int64_t most, int64_t pairs) {{
  return pairs == most ? all >= most : (all % most & pairs) != 0;
}}
static constexpr bool wants_pairs(int64_t lanes, int64_t most, int64_t pairs) {{
  return {_any(f"paired_so(({width} + 2 * lanes - 1) / (2 * lanes), most, pairs)" for width in sorted(widths))};
}}
}}  // namespace rta
#define RTA_WANTS(op, word) (::rta::wants(op, word))
#define RTA_WANTS_KERNEL(isa, op, stem) (::rta::wants_kernel(isa, op, stem))
#define RTA_WANTS_ACTIVATION(name) (::rta::wants_activation(name))
#define RTA_WANTS_TILE(lanes, most, vectors) (::rta::wants_tile(lanes, most, vectors))
#define RTA_WANTS_END(int8, lanes, most, vectors) (::rta::wants_end(int8, lanes, most, vectors))
#define RTA_WANTS_PAIRS(lanes, most, pairs) (::rta::wants_pairs(lanes, most, pairs))
#define RTA_MOST_SAMPLES {samples}
#define RTA_MOST_ROWS {rows}
#define RTA_WANTS_FAR_WEIGHTS {str(plan.weight_bound > _NEAR_BYTES).lower()}
#define RTA_WANTS_THREADS {str(threads).lower()}
"""


def _limits(plan: PlanRead) -> tuple[str, str]:
    if plan.most_samples is None:
        return "INT64_MAX", "INT64_MAX"
    steps = max([1, *(stage.inputs[0].steps for stage in plan.stages if stage.weight_dtype)])
    samples = max(plan.most_samples, 1)
    return f"int64_t{{{samples}}}", f"int64_t{{{samples * steps}}}"


def _tiles(widths: Iterable[int]) -> str:
    return "(" + _any(f"tiled_so(({width} + lanes - 1) / lanes, most, tile)" for width in sorted(widths)) + ")"


def _any(tests: Iterable[str]) -> str:
    return " ||\n         ".join(tests) or "false"


_NEAR_BYTES = 2 << 20
"""kNearBytes of kernels/_core/plan.h: below it no weights are fetched ahead."""

_PREAMBLE = "#pragma once\n#include <cstdint>\n"
