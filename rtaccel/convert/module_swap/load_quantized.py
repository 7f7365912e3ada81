"""`load_quantized_`: the layers that a state dict was saved from, swapped into a float model with its numbers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from rtaccel.convert.frontend.checks import check_no_script
from rtaccel.convert.module_swap.placing import replace_modules
from rtaccel.convert.module_swap.rebuild import FLOATS, rebuilt
from rtaccel.convert.module_swap.swap_report import SwapEntry, SwapReport
from rtaccel.convert.module_swap.whole_load import guard_loads
from rtaccel.core.errors import FormatError, RtaccelError, UnsupportedProblem
from rtaccel.nn.check import describe
from rtaccel.nn.stored import EXTRA, Stored, decode, settled

OP = "load_quantized_"


def load_quantized_(model: nn.Module, state: Mapping[str, Any]) -> SwapReport:
    """Swaps the layers of a float model that were swapped in the model of `state`, and loads all of it, in place.

    state: the `state_dict()` of a model after `quantize_`, `sparsify_` or both; also as read by `torch.load(...,
        weights_only=True)` or by safetensors. It says itself which layers were swapped, with which scheme, group size and
        sparsity pattern.

    Nothing is timed and nothing calibrated: the outputs have the bits of the model that was saved, on any machine.

    The float model needs its architecture alone; its weights are replaced, and the float layers are not kept for `restore_`.
    Layers of `rt.nn` put in by hand are rebuilt too, and a model that holds the same swapped layers is loaded into.

    Whole or not at all: FormatError, naming the layer, for a state that does not fit, with nothing changed. UnsupportedProblem
    for a model in training mode.

    Example:
        >>> import torch, rtaccel as rt
        >>> make = lambda: torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4)).eval()
        >>> model, x = make(), torch.randn(3, 64)
        >>> _ = rt.quantize_(model, {"2": rt.W4A16(group_size=64)}, force=True)
        >>> other = make()
        >>> rt.load_quantized_(other, model.state_dict()).swapped, torch.equal(other(x), model(x))
        (1, True)
    """
    _check(model, state)
    swaps = _swaps(model, state)
    prefixes = tuple(f"{name}." for names, _, _ in swaps for name in names)
    rest = _rest(model, state, prefixes)
    before = [(t, t.detach().clone()) for t in rest.values() if isinstance(t, Tensor)]
    replace_modules(model, [(names, candidate) for names, _, candidate in swaps])
    try:
        model.load_state_dict(state)
    except BaseException as error:
        replace_modules(model, [(names, module) for names, module, _ in swaps])
        with torch.no_grad():
            for tensor, params in before:
                tensor.copy_(params)
        if isinstance(error, RtaccelError) or not isinstance(error, Exception):
            raise
        raise FormatError(OP, str(error), "the state of a model of this form", "Nothing was changed.") from error
    guard_loads(model)
    return SwapReport(tuple(_entry(names, module, candidate) for names, module, candidate in swaps))


def _check(model: Any, state: Any) -> None:
    check_no_script(OP, model)
    if not isinstance(model, nn.Module):
        raise UnsupportedProblem(OP, type(model).__name__, "an nn.Module", "Pass the float model itself.")
    if isinstance(model, (*FLOATS.values(), Stored)):
        got = f"a model that is itself a {type(model).__name__}"
        expected = "a model that holds its layers, so that they can be replaced in it"
        raise UnsupportedProblem(OP, got, expected, "Make the layer of rt.nn and call its load_state_dict.")
    if model.training:
        raise UnsupportedProblem(OP, "a model in training mode", "one in eval mode", "Call model.eval() first.")
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        got = describe(state) if not isinstance(state, Mapping) else "a state whose names are no text"
        raise FormatError(OP, got, "a state dict: names and tensors", "Pass model.state_dict() of the swapped model.")


def _swaps(model: nn.Module, state: Mapping[str, Any]) -> list[tuple[tuple[str, ...], nn.Module, Stored]]:
    """Layers of the model under all their names, and what takes their place, loaded."""
    modules = dict(model.named_modules(remove_duplicate=False))
    names: dict[int, list[str]] = {}
    for name, module in modules.items():
        names.setdefault(id(module), []).append(name)
    described = _described(modules, state)
    made: dict[int, tuple[tuple[str, ...], nn.Module, Stored]] = {}
    for name, description in described.items():
        module = modules[name]
        given = {key[len(name) + 1 :]: t for key, t in state.items() if key.startswith(f"{name}.")}
        op = f"{OP}: {name}"
        if id(module) in made:
            _check_twice(op, made[id(module)], given, state)
            continue
        missing = [n for n in names[id(module)] if n not in described]
        if missing:
            raise FormatError(op, f"a state without {missing[0]}", "both: they are one layer here", "Load all of it.")
        if isinstance(module, Stored):
            candidate = copy.deepcopy(module, {id(module.__dict__.get("_original")): None})
            candidate.__dict__["_original"] = None
        else:
            candidate = rebuilt(op, module, description)
        _load_into(op, candidate, given)
        candidate.__dict__["_swapped"] = True
        made[id(module)] = (tuple(names[id(module)]), module, candidate.train(module.training))
    kept = [n for n, m in modules.items() if isinstance(m, Stored) and n not in described and not _inside(n, described)]
    if kept:
        got = f"a model whose {kept[0]} is swapped"
        raise FormatError(OP, got, "float where the state is float", "Call rt.restore_(model) first.")
    return list(made.values())


def _described(modules: Mapping[str, nn.Module], state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name of each layer that was swapped -> its description. Raises FormatError where the model has no such layer."""
    found: dict[str, dict[str, Any]] = {}
    for key, tensor in state.items():
        name, _, last = key.rpartition(".")
        if last != EXTRA or _inside(name, found):
            continue
        module = modules.get(name)
        foreign = module is not None and type(module).get_extra_state is not nn.Module.get_extra_state
        if foreign and not isinstance(module, Stored):
            continue
        description = decode(f"{OP}: {name or 'the model'}", tensor)
        if module is None or not name:
            kind = description["layer"]
            raise FormatError(
                f"{OP}: {name or 'the model'}", f"a state with a {kind} of that name", "a layer that the model has",
                "Pass the float model that was swapped; to load one layer call its load_state_dict.",
            )  # fmt: skip
        found[name] = description
    return found


def _inside(name: str, described: Mapping[str, Any]) -> bool:
    """Whether it is a part of a described layer: a projection of an attention."""
    return name.rpartition(".")[0] in described


def _load_into(op: str, candidate: Stored, given: dict[str, Any]) -> None:
    missing: list[str] = []
    unexpected: list[str] = []
    own = set(candidate.state_dict())
    missing, unexpected = sorted(own - given.keys()), sorted(given.keys() - own)
    if missing or unexpected:
        got = f"no {missing[0]}" if missing else f"{unexpected[0]} too"
        raise FormatError(op, got, f"the tensors of a {type(candidate).__name__}", "Pass the whole state.")
    try:
        candidate.refuse_state(given, "")
        candidate.load_state_dict(given)
    except RtaccelError as error:
        raise type(error)(op, error.got, error.expected, error.next_step) from error


def _check_twice(
    op: str, made: tuple[tuple[str, ...], nn.Module, Stored], given: dict[str, Any], state: Mapping[str, Any]
) -> None:
    first = made[0][0]
    for key, tensor in given.items():
        other = state.get(f"{first}.{key}")
        same = isinstance(tensor, Tensor) and isinstance(other, Tensor) and tensor.dtype == other.dtype
        if not same or tensor.is_meta or not torch.equal(tensor, cast(Tensor, other)):
            raise FormatError(op, f"other numbers than those of {first}", "the same: they are one layer", "Save again.")


def _rest(model: nn.Module, state: Mapping[str, Any], prefixes: tuple[str, ...]) -> dict[str, Any]:
    """What the model holds of the float part. Raises FormatError where the state's does not fit it."""
    own = {name: t for name, t in model.state_dict(keep_vars=True).items() if not name.startswith(prefixes)}
    given = {name: t for name, t in state.items() if not name.startswith(prefixes)}
    step = "Pass the whole state of a model of this form."
    if missing := [name for name in own if name not in given]:
        raise FormatError(OP, f"no {missing[0]} in the state", f"all {len(own)} float tensors", step)
    if unexpected := [name for name in given if name not in own]:
        raise FormatError(OP, f"{unexpected[0]} in the state, which the model has not", "its own names", step)
    for name, mine in own.items():
        if not isinstance(mine, Tensor):
            continue
        theirs = settled(OP, name, given[name])
        fits = theirs.dtype == mine.dtype or (theirs.is_floating_point() and mine.is_floating_point())
        if theirs.shape != mine.shape or not fits:
            raise FormatError(OP, f"{name}: {describe(theirs)}", describe(mine), step)
        if mine.is_meta:
            raise FormatError(OP, f"{name} on meta", "a model with memory", "Call model.to_empty(device='cpu') first.")
    return own


def _entry(names: tuple[str, ...], module: nn.Module, candidate: Stored) -> SwapEntry:
    words = candidate.description()
    rows = next((words[n] for n in ("out_features", "filters", "hidden_size", "embedding_dim") if n in words), 0)
    columns = next((words[n] for n in ("in_features", "channels", "input_size", "num_embeddings") if n in words), 0)
    if "embed_dim" in words:
        rows = columns = words["embed_dim"]
    return SwapEntry(
        names[0],
        "swapped",
        "as the state says",
        words.get("scheme", "int8 rows"),
        (rows, columns),
        _bytes(module),
        activation=words.get("activation"),
        bytes_after=_bytes(candidate),
        also=names[1:],
    )


def _bytes(module: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
