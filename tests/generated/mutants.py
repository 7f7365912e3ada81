"""Do the generators find faults? Ten are planted, one at a time, and each has to be found; with none planted nothing is found.

    python -m tests.generated.mutants [NAME ...]

Each fault runs in a process of its own, for some end in a crash. A fault replaces one function of the product.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rtaccel.convert.frontend import export
from rtaccel.core.batch import ANY_BATCH
from rtaccel.kernels.sparse_linear import contract as sparse
from rtaccel.nn import check as layers
from rtaccel.runtime import build, compiled, inputs
from rtaccel.runtime.state import buffers
from rtaccel.runtime.steps import executor
from tests.generated import test_batches, test_lifetimes, test_states, test_tensors
from tests.support import stages
from tests.support.generators.models import models
from tests.support.generators.states import changes

FOUND, NOT_FOUND = 10, 0
"""Exit codes of a process that ran the generators."""


def examples(strategy: Any, check: Callable[[Any], None], count: int) -> None:
    """Runs a check on generated examples until one fails; nothing is reduced."""

    @settings(
        max_examples=count, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def run(found: Any) -> None:
        check(found)

    run()


def batches(family: str, count: int, most: int = 7) -> Callable[[], None]:
    return lambda: examples(
        models(family, most).map(lambda d: {"model": d, "scheme": "float32"}), test_batches.check, count
    )


def tensors(family: str, count: int) -> Callable[[], None]:
    found = models(family, 4).map(lambda d: {"model": d, "scheme": "float32", "rows": 2})
    return lambda: examples(found, test_tensors.check, count)


def attributes() -> None:
    for kind in test_batches.REMEMBERS:
        test_batches.check_attributes({"kind": kind, "width": 4, "rows": 2, "backend": None})


def round_trips() -> None:
    for name, scheme in (("mlp", "w8a8 static"), ("lstm", "w8a8 static"), ("encoder, norm last", "w8a8 static")):
        test_states.test_round_trip(name, scheme)


def apart() -> None:
    for name in ("with a torch call", "mlp"):
        test_states.test_a_model_and_its_compiled_form_share_nothing(name)


def bad_states(name: str, count: int) -> Callable[[], None]:
    schemes = [s for n, s in stages.pairs() if n == name]
    found = st.tuples(st.sampled_from(schemes), changes()).map(
        lambda p: {"model": name, "scheme": p[0], "changes": p[1], "strict": True, "assign": False, "from_other": False}
    )
    return lambda: examples(found, test_states.check, count)


def lifetimes() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        test_lifetimes.Lifetimes,
        settings=settings(
            max_examples=30, stateful_step_count=30, deadline=None, derandomize=True, database=None,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


# -- the faults -------------------------------------------------------------------------------------------------------


def _unverified(model: Any, *rest: Any, **options: Any) -> str:
    return "not verified"


def dropped_guard() -> None:
    """The comparison with the model, at batches up to 8, still stands: what is left is found at larger ones."""
    export.batch_range = lambda program, example: ANY_BATCH


def wrong_row_count() -> None:
    """Rows after the eighth are forgotten where a model is run step by step."""
    real = executor.Executor.__call__

    def fewer(self: Any, leaves: Any) -> Any:
        return real(self, [t[:8] if isinstance(t, torch.Tensor) and t.dim() else t for t in leaves])

    executor.Executor.__call__ = fewer


def forgotten_scale() -> None:
    """The scale of a recurrent state, and what an output means, are no part of the state."""
    real = buffers._of_stage

    def fewer(*args: Any) -> Iterator[Any]:
        return (e for e in real(*args) if e.kind not in ("attr", "scale", "zero_point"))

    buffers._of_stage = fewer


def aliased_constant() -> None:
    build.private_copy = lambda op, model: model
    buffers.copied = lambda tensor: tensor.detach()


def skipped_overlap_check() -> None:
    inputs.check_apart = lambda op, outs: None


def unchecked_index() -> None:
    sparse.check = lambda *args, **named: None


def old_plan() -> None:
    executor.Executor.taken_over_by = lambda self, earlier: self


def lost_negative_bit() -> None:
    def without_sign(x: torch.Tensor) -> torch.Tensor:
        x = x.detach().as_subclass(torch.Tensor)
        x = (torch._neg_view(x) if x.is_neg() else x).contiguous()
        return x if x.data_ptr() % x.element_size() == 0 else x.clone()

    inputs.dense = layers.dense = compiled.dense = without_sign


def frozen_attribute() -> None:
    build.check_state = lambda *args: None


def swapped_output() -> None:
    real = executor.Executor.__call__

    def turned(self: Any, leaves: Any) -> Any:
        results = real(self, leaves)
        return results[::-1] if len(results) == 2 else results

    executor.Executor.__call__ = turned
    build.verified = _unverified


MUTANTS: dict[str, tuple[Callable[[], None], tuple[Callable[[], None], ...]]] = {
    "dropped guard": (dropped_guard, (batches("batch", 150, 2),)),
    "wrong row count": (wrong_row_count, (batches("torch", 40),)),
    "forgotten scale": (forgotten_scale, (round_trips,)),
    "aliased constant": (aliased_constant, (apart,)),
    "skipped overlap check": (skipped_overlap_check, (tensors("torch", 20), tensors("rows", 20))),
    "unchecked index": (unchecked_index, (bad_states("sparse", 150),)),
    "old plan": (old_plan, (lifetimes,)),
    "lost negative bit": (lost_negative_bit, (tensors("rows", 6),)),
    "frozen attribute": (frozen_attribute, (attributes,)),
    "swapped output": (swapped_output, (batches("torch", 40), batches("rows", 40))),
}
"""Name -> what it breaks, and the generators that have to find it."""


def main(name: str) -> int:
    """In the process of one fault: whether the generators find something."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    plant, checks = MUTANTS[name.removeprefix("without ")]
    if not name.startswith("without "):
        plant()
    for check in checks:
        try:
            check()
        except Exception as error:
            print(f"{type(error).__name__}: {str(error)[:300]}")
            return FOUND
    return NOT_FOUND


def run(name: str) -> tuple[bool, str]:
    """(whether something was found, what), in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "tests.generated.mutants", "--plant", name], capture_output=True, text=True, timeout=3600,
            env={**os.environ, "RTACCEL_REGRESSIONS": folder, "PYTHONPATH": "."},
        )  # fmt: skip
    if done.returncode not in (FOUND, NOT_FOUND) and done.returncode > 0:
        return False, f"the process failed: {done.stderr[-800:]}"
    said = f"signal {-done.returncode}" if done.returncode < 0 else done.stdout.strip().split("\n")[-1]
    return done.returncode != NOT_FOUND, said


if __name__ == "__main__":
    if sys.argv[1:2] == ["--plant"]:
        sys.exit(main(sys.argv[2]))
    names, wrong = sys.argv[1:] or list(MUTANTS), []
    for mutant in names:
        for label, wanted in ((mutant, True), (f"without {mutant}", False)):
            found, said = run(label)
            print(
                f"{'as it should be' if found is wanted else 'WRONG':15} {label}: {said if found else 'nothing found'}",
                flush=True,
            )
            if found is not wanted:
                wrong.append(label)
    print(json.dumps({"planted": len(names), "wrong": wrong}))
    sys.exit(bool(wrong))
