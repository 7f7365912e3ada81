"""State dicts: complete, and either taken as a whole or refused with nothing changed."""

from __future__ import annotations

import copy
import functools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import rtaccel as rt
from rtaccel.core.registry import impls
from tests.generated.test_batches import COMMON
from tests.support import stages
from tests.support.compare import corrupt, outcome, quiet
from tests.support.generators import streams
from tests.support.generators.count import case, examples
from tests.support.generators.failures import Wrong, checked
from tests.support.generators.states import changed, changes
from tests.support.processes.run import PYTHON


def bits(result: Any) -> list[bytes]:
    """Of every tensor of a result or a state."""
    found = []
    for leaf in pytree.tree_leaves(result):
        if isinstance(leaf, Tensor):
            plain = (
                leaf.detach().as_subclass(Tensor).resolve_neg().clone(memory_format=torch.contiguous_format).flatten()
            )
            found.append(plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return found


def numbers(state: dict[str, Any]) -> dict[str, Any]:
    """A state without what it says of itself."""
    return {k: v for k, v in state.items() if k != "structure"}


# -- load(save(x)) gives the bits of x --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "scheme"), stages.pairs())
def test_round_trip(name: str, scheme: str) -> None:
    first, second = stages.shared(name, scheme, 1), copy.deepcopy(stages.shared(name, scheme, 2))
    state = first.state_dict()
    if name == "sparse" and state.keys() != second.state_dict().keys():
        pytest.skip("the sparse kernel was measured to be faster once, and once not")
    other = {k: v.clone() for k, v in second.state_dict().items()}
    for i in range(examples(6)):
        x = stages.inputs(name, 50 + i, 1 + i % 4)
        case("states")
        assert bits(quiet(lambda x=x: first(x))) != bits(quiet(lambda x=x: second(x)))
    second.load_state_dict(state)
    assert bits(numbers(second.state_dict())) == bits(numbers(state))
    again = copy.deepcopy(second)
    for i in range(examples(6)):
        x = stages.inputs(name, 50 + i, 1 + i % 4)
        want = bits(quiet(lambda x=x: first(x)))
        case("states", 2)
        assert bits(quiet(lambda x=x: second(x))) == want
        assert bits(quiet(lambda x=x: again(x))) == want
    second.load_state_dict(other)
    assert bits(quiet(lambda: second(x))) == bits(quiet(lambda: stages.shared(name, scheme, 2)(x)))


@pytest.mark.parametrize("name", ["mlp", "lstm", "images"])
def test_a_state_that_was_loaded_is_saved_as_it_was(name: str) -> None:
    first, second = stages.shared(name, "w8a8 static", 1), copy.deepcopy(stages.shared(name, "w8a8 static", 2))
    second.load_state_dict(first.state_dict())
    case("states")
    assert bits(second.state_dict()) == bits(first.state_dict())


def test_every_operator_of_the_cpu_is_among_them() -> None:
    seen = {stage.op for name, scheme in stages.pairs() for stage in stages.shared(name, scheme, 1)._program.stages}
    apart = {"sparse_linear"}  # of no model here
    apart |= {"solve", "matrix_exp", "qr", "lu", "svd", "eigvalsh"}  # of no layer: tests/kernels/matrices has them
    apart |= {"cached_attention", "table_row"}  # of streams: tests/runtime/streams has them
    apart |= {
        "keep",
        "cast",
    }  # of state and of half precision: tests/runtime/stateful, tests/convert/rewritten/test_half.py
    apart |= {"tree_ensemble"}  # of no layer here: tests/kernels/general/test_tree_ensemble.py has it
    apart |= {"draw"}  # gives other numbers in each call: tests/kernels/general/test_draw.py has it
    assert {impl.op for impl in impls("cpu")} - apart <= seen


@pytest.mark.parametrize("name", sorted(stages.MODELS))
def test_a_model_and_its_compiled_form_share_nothing(name: str) -> None:
    model = stages.original(name, 1)
    x = stages.inputs(name, 5)
    want = quiet(lambda: copy.deepcopy(model)(x))
    fast = quiet(lambda: rt.compile(model, (x,)))
    first = quiet(lambda: fast(x))
    kept = bits(first)
    corrupt(first)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    case("states", 3)
    assert bits(quiet(lambda: fast(x))) == kept
    twin = copy.deepcopy(fast)
    zeros = {k: torch.zeros_like(v) for k, v in fast.state_dict().items()}
    outcome(lambda: fast.load_state_dict(zeros))
    assert bits(quiet(lambda: twin(x))) == kept
    model = stages.original(name, 1)
    fast = quiet(lambda: rt.compile(model, (x,)))
    outcome(lambda: fast.load_state_dict(zeros))
    assert bits(quiet(lambda: model(x))) == bits(want)


# -- states that are not what they should be --------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(stages.MODELS))
def test_bad_states(name: str) -> None:
    schemes = [s for n, s in stages.pairs() if n == name]

    @settings(max_examples=examples(50), **COMMON)
    @given(st.sampled_from(schemes), changes(), st.booleans(), st.booleans(), st.booleans())
    def run(scheme: str, what: Any, strict: bool, assign: bool, from_other: bool) -> None:
        found = {
            "model": name,
            "scheme": scheme,
            "changes": what,
            "strict": strict,
            "assign": assign,
            "from_other": from_other,
        }
        checked("states", found, check)

    run()


def check(found: Any) -> None:
    name, scheme = found["model"], found["scheme"]
    fast = copy.deepcopy(stages.shared(name, scheme, 1))
    source = stages.shared(name, scheme, 2 if found["from_other"] else 1)
    state = changed({k: v.clone() for k, v in source.state_dict().items()}, found["changes"])
    x = stages.inputs(name, 60, 2)
    hold(fast, state, found, lambda: fast(x), lambda: copy.deepcopy(fast)(x))


def hold(fast: nn.Module, state: dict[str, Any], found: Any, call: Any, replanned: Any, by_layer: bool = False) -> None:
    """Loads; refused, nothing is changed; taken, the state is what was given and the plan is that of the state.

    by_layer: with strict=False a layer that lacks a name is not loaded at all, and the others are.
    """
    before, kept = bits(quiet(call)), bits(fast.state_dict())
    case("states")
    _, error = outcome(lambda: fast.load_state_dict(state, strict=found["strict"], assign=found["assign"]))
    if error is not None:
        collected = isinstance(error, RuntimeError) and str(error).startswith("Error(s) in loading state_dict for")
        if not isinstance(error, rt.RtaccelError) and not collected:
            raise Wrong(f"load raises {type(error).__name__}", str(error)) from error
        if bits(fast.state_dict()) != kept:
            raise Wrong("a refused state is loaded in part", str(error))
        if bits(quiet(call)) != before:
            raise Wrong("a refused state changes results", str(error))
        return
    own = fast.state_dict()
    left_out = {k.split(".")[0] for k in own if k not in state} if by_layer and not found["strict"] else set()
    held = [k for k in numbers(own) if k.split(".")[0] not in left_out]
    wrong = [k for k in held if isinstance(state.get(k), Tensor) and bits(own[k]) != bits(state[k])]
    if wrong:
        raise Wrong("a state is taken but not held", f"{wrong}")
    got, error = outcome(call)
    if error is not None:
        raise Wrong(f"a taken state raises {type(error).__name__}", str(error)) from error
    again, error = outcome(replanned)
    if error is not None or bits(again) != bits(got):
        raise Wrong("a taken state is not what is computed", f"{error!r}")
    with torch.no_grad():
        for tensor in state.values():
            if (
                isinstance(tensor, Tensor)
                and tensor.device.type == "cpu"
                and tensor.layout == torch.strided
                and tensor.numel()
            ):
                outcome(lambda tensor=tensor: tensor.zero_())
    if bits(fast.state_dict()) != bits(own) or bits(quiet(call)) != bits(got):
        raise Wrong("a state that was loaded is shared with the caller", "")


SWAPPED = {
    "linear": (lambda: nn.Linear(33, 17), (33,)), "conv1d": (lambda: nn.Conv1d(3, 5, 3), (3, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 5, 3), (3, 6, 6)), "lstm": (lambda: nn.LSTM(5, 6, batch_first=True), (4, 5)),
    "gru": (lambda: nn.GRU(5, 6, batch_first=True), (4, 5)),
    "embedding": (lambda: nn.Embedding(11, 4), ()),
}  # fmt: skip


def swapped(kind: str, scheme: str, seed: int) -> tuple[nn.Module, Tensor]:
    """A copy of a model whose layer was swapped, and an input."""
    model, x = _swapped(kind, scheme, seed)
    return copy.deepcopy(model), x


@functools.cache
def _swapped(kind: str, scheme: str, seed: int) -> tuple[nn.Module, Tensor]:
    make, shape = SWAPPED[kind]
    generator = torch.Generator().manual_seed(seed)
    x = (
        torch.randint(0, 11, (3,), generator=generator)
        if kind == "embedding"
        else torch.randn(3, *shape, generator=generator)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(make()).eval()
    quiet(lambda: rt.quantize_(model, stages.scheme_of(scheme), filter_fn=lambda m, n: True, calibration=[x, x * 1.5]))
    return model, x


@settings(max_examples=examples(80), **COMMON)
@given(
    st.sampled_from(sorted(SWAPPED)), st.sampled_from(("w8a8", "w8a8 static", "w4a8", "w8a16", "float32")), changes(),
    st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
def test_bad_states_of_swapped_modules(
    kind: str, scheme: str, what: Any, strict: bool, assign: bool, from_other: bool
) -> None:
    found = {
        "model": kind,
        "scheme": scheme,
        "changes": what,
        "strict": strict,
        "assign": assign,
        "from_other": from_other,
    }
    checked("module states", found, check_module)


def check_module(found: Any) -> None:
    model, x = swapped(found["model"], found["scheme"], 1)
    if any(kind == "number as name" for kind, *_ in found["changes"]):
        return  # torch's own load_state_dict takes only texts
    source, _ = swapped(found["model"], found["scheme"], 2 if found["from_other"] else 1)
    state = changed({k: v.clone() for k, v in source.state_dict().items()}, found["changes"])
    if any(isinstance(m, tuple(_plain_layers())) for m in model.modules()):
        return  # nothing was swapped: torch's own layer and torch's own checks
    if found["strict"] and any(key.split(".")[0] not in model._modules for key in state):
        return  # a name of no layer: torch's container loads its layers before it refuses the rest
    hold(model, state, found, lambda: model(x), lambda: copy.deepcopy(model)(x), by_layer=True)


def _plain_layers() -> list[type]:
    return [nn.Linear, nn.Conv1d, nn.Conv2d, nn.LSTM, nn.GRU, nn.Embedding]


# -- streams, with their past -----------------------------------------------------------------------------------------


@settings(max_examples=examples(8), **COMMON)
@given(streams.descriptions(), st.integers(1, 12))
def test_a_stream_goes_on_elsewhere(d: Any, length: int) -> None:
    """Another stream of the same form, loaded in the middle, gives the same bits from there on."""
    first, second = (quiet(lambda s=s: streams.streamed(d, s)) for s in (1, 2))
    for x in streams.time_steps(d, length, 3):
        first.step(x)
    second.load_state_dict(first.state_dict())
    third = copy.deepcopy(second)
    for x in streams.time_steps(d, 9, 4):
        want = bits(first.step(x))
        case("states", 2)
        assert bits(second.step(x)) == want
        assert bits(third.step(x)) == want
    for live in (first, second, third):
        live.reset()
    for x in streams.time_steps(d, 3, 5):
        case("states")
        assert bits(first.step(x)) == bits(second.step(x)) == bits(third.step(x))


@pytest.mark.parametrize("kind", ["lstm", "gru", "causal"])
def test_pasts_that_are_not_pasts(kind: str) -> None:
    @settings(max_examples=examples(1), **COMMON)
    @given(streams.descriptions(), st.integers(0, 10**6))
    def run(d: Any, seed: int) -> None:
        checked("pasts", {"stream": {**d, "kind": kind}, "seed": seed}, check_pasts)

    run()


PASTS = 200
"""Changed pasts of one stream."""


def check_pasts(found: Any) -> None:
    """In a process of its own, which must not crash."""
    done = subprocess.run(
        [*PYTHON, "-m", "tests.generated.pasts"], input=json.dumps({**found, "count": PASTS}), capture_output=True,
        text=True, timeout=600, cwd=Path(__file__).parent.parent.parent,
    )  # fmt: skip
    case("states", PASTS)
    if done.returncode < 0:
        raise Wrong(f"signal {-done.returncode}", done.stdout[-300:])
    if done.returncode:
        raise Wrong("a changed past", (done.stdout + done.stderr)[-600:])


FREED = """
import copy, sys, torch
import rtaccel as rt
from tests.generated.test_states import STREAM, swapped
from tests.support import stages
from tests.support.generators import streams
kind, name = sys.argv[1:]
if kind == "stream":
    model = streams.streamed(STREAM)
elif kind == "swapped":
    model = swapped(name, "w8a8 static", 1)[0]
else:
    model = stages.build(name, "w8a8 static", 1)
for key in model.state_dict():
    state = {k: v.clone() for k, v in model.state_dict().items()}
    if not state[key].numel():
        continue
    state[key].untyped_storage().resize_(0)
    try:
        model.load_state_dict(state)
    except rt.RtaccelError:
        continue
    sys.exit(f"{key} without memory was taken")
"""

STREAM = {"kind": "lstm", "seed": 1, "features": 3, "width": 4, "layers": 1, "dilations": [1], "head": True, "streams": 2,
          "scheme": "w8a8"}  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), [("compiled", "with a torch call"), ("stream", "lstm"), ("swapped", "lstm")])
def test_tensors_whose_memory_is_gone(kind: str, name: str) -> None:
    """Refused, and not read: in a process of its own."""
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([*PYTHON, "-c", FREED, kind, name], capture_output=True, text=True, timeout=600, cwd=root)
    case("states")
    assert done.returncode == 0, f"{done.returncode} {done.stderr[-600:]}"
