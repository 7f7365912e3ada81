"""The state dict of a compiled model: loaded as a whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys

from rtaccel.convert.passes.program import Program
from rtaccel.core.errors import FormatError, RtaccelError
from rtaccel.nn.check import copied
from rtaccel.runtime.state.buffers import STRUCTURE, State, keys_of, structure


class Loading(nn.Module):
    """The part of a compiled model that saves and loads its tensors."""

    _program: Program
    _state: State
    _verified: str
    _before_swap: Any

    def _install(self, program: Program, state: State, past: bytes | None = None) -> None:
        raise NotImplementedError

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """As nn.Module's, but all or nothing: every tensor is checked and the plan is packed before anything changes.

        The tensors are copied, whatever `assign` says. A state of another scheme is taken where the model is the same: the
        layers are then computed as they were in the model that gave it. Bound calls and `run` go on with the new weights.
        Raises FormatError for a state that does not fit.
        """
        missing, unexpected = self._load(state_dict, strict)
        return _IncompatibleKeys(missing, unexpected)

    def _load(self, given: Any, strict: bool) -> tuple[list[str], list[str]]:
        if not isinstance(given, Mapping):
            raise FormatError("load_state_dict", type(given).__name__, "a dict of tensors", "Pass a state_dict().")
        program = structure.program_for(self._program, given)
        state = self._state if program is self._program else State(program)
        own = {**state.tensors, **self._extra()}
        missing, unexpected = keys_of(own, given, strict or program is not self._program)
        state.check(program, given)
        found = {key: copied(given[key]) for key in (*state.entries, STRUCTURE) if key in given}
        state = state.with_tensors(found)
        self._install(state.program(program), state, self._past(given))
        self._before_swap = None
        self._verified = "the weights were loaded: what was verified were others"
        return missing, unexpected

    def _extra(self) -> dict[str, Any]:
        """Further keys of the state dict."""
        return {}

    def _past(self, given: Mapping[str, Any]) -> bytes | None:
        """What the plan keeps from call to call, of a state that is to be loaded."""
        return None

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + STRUCTURE] = self._state.tensors[STRUCTURE].clone()

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """As a part of another module, which collects what is wrong and raises in the end: the whole state or nothing."""
        given = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
        missing, unexpected = keys_of({**self._state.tensors, **self._extra()}, given, strict=False)
        relowered = given.get(STRUCTURE) is not None and not self._is_own(given)
        if (missing or unexpected) and not relowered:
            missing_keys.extend(prefix + key for key in missing)
            unexpected_keys.extend(prefix + key for key in unexpected)
            return
        try:
            self._load(given, strict=True)
        except RtaccelError as error:
            error_msgs.append(f"{prefix.rstrip('.')}: {error}")

    def _is_own(self, given: Mapping[str, Any]) -> bool:
        """Whether a state was saved by a model that computes its layers as this one does."""
        other = given[STRUCTURE]
        return isinstance(other, Tensor) and torch.equal(other, self._state.tensors[STRUCTURE])
