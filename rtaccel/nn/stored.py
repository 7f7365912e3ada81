"""What the modules here have in common as keepers of a state: it says what it is, and no float layer takes it for its own.

Quantized numbers are stored under names that no float layer has (`qweight`, `qweight_ih_l0`, `values`), so that neither
`float_layer.load_state_dict(state, strict=False)` nor the reverse puts codes where numbers belong. Beside them stands
`_extra_state`: a description of the layer, JSON in a uint8 tensor, which safetensors stores and `torch.load(weights_only=True)`
reads. `rt.load_quantized_` makes layers from it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.scheme import Scheme, parse_scheme
from rtaccel.core.sparsity import BlockSparse, Sparsity, check_block, parse_sparsity
from rtaccel.nn.check import dense, describe, given_state, is_freed, is_plain

EXTRA = "_extra_state"
"""nn.Module's own name for what a layer stores beside parameters and buffers."""

LONGEST = 4096
"""Bytes of a description; that of a real layer has about 200."""

Self = TypeVar("Self", bound="Stored")


class NoFloatWeight(UnsupportedProblem, AttributeError):
    """A weight of a float layer was asked of its swapped form, or given to it. module: that layer."""

    module: nn.Module


def encode(description: Mapping[str, Any]) -> Tensor:
    text = json.dumps(description, sort_keys=True)
    return torch.tensor(list(text.encode()), dtype=torch.uint8, device="cpu")


def decode(op: str, tensor: Any) -> dict[str, Any]:
    """Raises FormatError for what is no description."""
    good = isinstance(tensor, Tensor) and tensor.dtype == torch.uint8 and tensor.dim() == 1 and not tensor.is_meta
    good = good and tensor.layout == torch.strided and not is_freed(tensor)
    found: Any = None
    if good and tensor.numel() <= LONGEST:
        try:
            found = json.loads(bytes(tensor.tolist()))
        except (ValueError, RecursionError):
            found = None
    if not isinstance(found, dict) or not isinstance(found.get("layer"), str):
        expected = "a uint8 tensor with the description of a layer"
        raise FormatError(op, f"{EXTRA}: {describe(tensor)}", expected, "Take the whole state dict of a swapped layer.")
    return found


def scheme_words(scheme: Scheme) -> dict[str, Any]:
    """A scheme as a description has it: what its numbers depend on, and not how a range was chosen."""
    options = ((name, getattr(scheme, name, None)) for name in ("activation", "group_size"))
    return {"scheme": scheme.name, **{name: value for name, value in options if value is not None}}


def scheme_of(op: str, description: Mapping[str, Any]) -> Scheme:
    """Raises FormatError for what is no scheme."""
    made = parse_scheme(description.get("scheme", ""))
    options = {name: description[name] for name in ("activation", "group_size") if name in description}
    if not all(hasattr(made, name) for name in options):
        raise FormatError(
            op, f"{made} with {options}", "options that the scheme has", "Take the state as it was saved."
        )
    return replace(made, **options) if options else made


def sparsity_words(sparsity: Sparsity) -> dict[str, Any]:
    block = {"block": list(sparsity.block)} if isinstance(sparsity, BlockSparse) else {}
    return {"sparsity": sparsity.name, **block}


def sparsity_of(op: str, description: Mapping[str, Any]) -> Sparsity:
    """Raises FormatError for what is no pattern."""
    made = parse_sparsity(description.get("sparsity", ""))
    return replace(made, block=check_block(op, description.get("block"))) if isinstance(made, BlockSparse) else made


def settled(op: str, name: str, tensor: Any) -> Tensor:
    """A tensor of a state as plain numbers in memory: itself where it is that. Raises FormatError where it has none."""
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_meta or is_freed(tensor):
        got = describe(tensor) if not isinstance(tensor, Tensor) else f"{tensor.layout} {describe(tensor)}"
        raise FormatError(op, f"{name}: {got}", "a dense tensor with numbers", "Load the state from a file first.")
    plain = type(tensor) is Tensor and not tensor.requires_grad and not tensor.is_conj() and not tensor.is_neg()
    if not is_plain(tensor) or (plain and tensor.is_contiguous()):
        return tensor
    return dense(tensor)


class Stored(nn.Module):
    """Base class of the modules. FLOAT: names of a float layer's weights, which this layer has not.

    `.half()` and the like leave such a layer as it is; moves between devices work.
    """

    FLOAT: ClassVar[re.Pattern[str]] = re.compile("weight")

    def description(self) -> dict[str, Any]:
        """What the layer is but for its numbers: plain numbers and text, the name of its class under "layer"."""
        raise NotImplementedError

    def check_tensors(self, op: str, given: dict[str, Any]) -> None:
        """Raises FormatError where these, by buffer, do not make this layer."""
        raise NotImplementedError

    def renew(self) -> None:
        """Called after tensors were loaded or moved."""

    # -- weights of a float layer -------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        buffers = self.__dict__.get("_buffers", {})
        if name in buffers:
            return buffers[name]
        if type(self).FLOAT.fullmatch(name):
            raise self._refused(name, f"{name} read from a swapped layer", "its call, or its own tensors")
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if type(self).FLOAT.fullmatch(name):
            raise self._refused(name, f"{name}: {describe(value)}", "tensors under the names of its state_dict()")
        super().__setattr__(name, value)

    def _refused(self, name: str, got: str, expected: str) -> NoFloatWeight:
        step = "Keep this layer float with filter_fn, or call rt.restore_(model)."
        error = NoFloatWeight(type(self).__name__, got, expected, step)
        error.module = self
        return error

    # -- state --------------------------------------------------------------------------------------------------------

    def get_extra_state(self) -> Tensor:
        return encode(self.description())

    def set_extra_state(self, state: Any) -> None:
        """Checks; there is nothing to set. Raises FormatError for the state of another layer."""
        self.check_description(f"load {type(self).__name__}", state)

    def check_description(self, op: str, state: Any) -> None:
        given, own = decode(op, state), json.loads(json.dumps(self.description()))
        if given != own:
            names = sorted(n for n in {*given, *own} if given.get(n) != own.get(n))
            theirs, ours = (", ".join(f"{n}={d.get(n)!r}" for n in names) for d in (given, own))
            raise FormatError(
                op, f"the state of a layer with {theirs}", f"one with {ours}",
                "Make the layer that the state is of, or call rt.load_quantized_ on the float model.",
            )  # fmt: skip

    def checked_state(self, op: str, given: dict[str, Any], assign: bool = False) -> dict[str, Tensor]:
        """The buffers of a state as they will be loaded. Raises FormatError; nothing is changed."""
        self.check_description(op, given[EXTRA])
        found = {name: settled(op, name, t) for name, t in given.items() if name != EXTRA}
        if assign and len({t.device for t in found.values()}) > 1:
            got = f"tensors on {sorted({str(t.device) for t in found.values()})}"
            raise FormatError(op, got, "one device", "Move the state first.")
        self.check_tensors(op, found)
        return found

    def refuse_state(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """Raises FormatError where the layer would refuse this state, which has all its tensors. Changes nothing."""
        given = given_state(self, state_dict, prefix, [], [])
        if given is not None:
            self.checked_state(f"load {prefix}{type(self).__name__}", given)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Loads the layer whole or not at all: a FormatError, a key missing or one too many changes nothing.

        nn.Module reports such keys, and raises where strict. It always passes strict=True here.
        """
        for hook in self._load_state_dict_pre_hooks.values():
            hook(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        given = given_state(self, state_dict, prefix, missing_keys, unexpected_keys)
        if given is None:
            return
        op = f"load {prefix}{type(self).__name__}"
        assign = bool(local_metadata.get("assign_to_params_buffers", False))
        found = self.checked_state(op, given, assign)
        if not assign and any(t is not None and t.is_meta for t in self._buffers.values()):
            step = "Pass assign=True, or call layer.to_empty(device='cpu') first."
            raise FormatError(op, "a layer on meta, which has no memory", "a layer to copy into", step)
        self.take(found, assign)
        self.renew()

    def take(self, found: dict[str, Tensor], assign: bool) -> None:
        """Loads tensors that were checked."""
        with torch.no_grad():
            for name, tensor in found.items():
                own = self._buffers[name]
                assert own is not None
                if assign:
                    self._buffers[name] = tensor
                elif own.is_inference() and not torch.is_inference_mode_enabled():
                    self._buffers[name] = tensor.to(own.device, copy=True)  # which may not be written to
                else:
                    own.copy_(tensor)

    def _apply(self: Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves, but never converts: half a scale is not the scale."""

        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(keep_dtype, recurse)
        original = self.__dict__.get("_original")
        if original is not None:
            original._apply(fn, recurse)
        self.renew()
        return self


def stored_layers(model: nn.Module) -> Iterator[tuple[str, Stored]]:
    """Those in a model, under all their names."""
    return (
        (name, module) for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, Stored)
    )
