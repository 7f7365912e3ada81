"""Launches of persistent kernels in the file of a model, for programs in C: `rta_gpu_open` needs no Python and no compiler.

Of each form of the kernel there are its machine code, the weights as it reads them, and all parameters of its one launch.
`docs/reference/artifact.md` has the grammar, native/gpu/section.cc the reader.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.deploy.gpu_kernels import capabilities_of
from rtaccel.kernels._gpu.cuda_nvrtc import CudaKernel

if TYPE_CHECKING:
    from rtaccel.kernels._gpu.cubin_store import Cubin
    from rtaccel.runtime.compiled import CompiledModel
    from rtaccel.runtime.gpu.persistent_networks import Network

TENSOR = "persistent"
_ALIGNMENT = 64
_HEAD, _LAUNCH, _PARAMETER = struct.Struct("<8sIIQ40x"), struct.Struct("<12I2Q64s128s32s2Q"), struct.Struct("<IIQQQ")
_MAGIC = b"RTASTAYS"
_FLOAT32, _ROUNDED, _SCALED = 1, 2, 3  # versions: of messages with float32 alone, with int8, and with factors as well
_REQUESTS, _REPLIES, _CONTROL, _PAST, _MEMORY, _WORD, _LONG, _SECOND, _INVERSE, _ZERO_POINT, _FACTORS = range(11)
_NUMBERS = {"i32": ("<i", _WORD), "u32": ("<I", _WORD), "fp32": ("<f", _WORD), "i64": ("<q", _LONG)}


def persistent_section(model: CompiledModel, architectures: Sequence[str]) -> bytes:
    """The persistent kernel of a model for batches of one, or of a stream, for these cards. architectures: such as "sm_90".

    Compiles it. Raises FormatError for an architecture that there is not, UnsupportedProblem where no persistent kernel holds the
    model, BackendUnavailable without triton or NVRTC.
    """
    capabilities = capabilities_of("persistent", architectures)
    return _section([launch for capability in capabilities for launch in _launches(model, capability)])


class _Launch:
    """One form, compiled. arguments: of its launch, with the name and type of each. mailbox: those that both sides see. recipe:
    how its code is compiled, for who does it himself; nothing for Triton's."""

    def __init__(
        self, network: Network, cubin: Cubin, arguments: Mapping[str, Any], mailbox: Sequence[Tensor], spec: Any
    ) -> None:
        self.network, self.cubin = network, cubin
        self.recipe = json.dumps(asdict(spec)).encode() if isinstance(spec, CudaKernel) else b""
        self.arguments = [(name, arguments[name], kind) for name, kind in cubin.parameters]
        self.mailbox = mailbox
        self.count = len(self.arguments) + (network.factors is not None)


def _launches(model: CompiledModel, capability: int) -> list[_Launch]:
    """As a cluster first, where there is such a form: whether a device has room for it is asked where the file is opened."""
    first = _launch(model, capability, room=True)
    if not first.cubin.cluster:
        return [first]
    with contextlib.suppress(UnsupportedProblem):  # what only a cluster holds
        return [first, _launch(model, capability, room=False)]
    return [first]


def _launch(model: CompiledModel, capability: int, room: bool) -> _Launch:
    """The form for a card with room for clusters, or without."""
    from rtaccel.convert.passes.program import SubgraphStep
    from rtaccel.kernels._gpu.triton_launch import noted, played
    from rtaccel.kernels._persistent.card import Card, assuming, card
    from rtaccel.kernels.recurrent.cuda.choice import mapping
    from rtaccel.runtime.gpu.ahead import build
    from rtaccel.runtime.gpu.persistent import persistent_network
    from rtaccel.runtime.gpu.persistent_launch import message_words
    from rtaccel.runtime.gpu.persistent_run import CONTROL_WORDS
    from rtaccel.runtime.stream import StreamModel

    (step,) = model._program.steps
    assert isinstance(step, SubgraphStep)
    with assuming(Card(capability, card().multiprocessors)), mapping(False), played(room=room), noted() as launches:
        network = persistent_network(step.group, isinstance(model, StreamModel))
        words = (2 * (message_words(network) + network.commands), 2 * network.outputs, CONTROL_WORDS)
        mailbox = [torch.zeros(n, dtype=torch.int64) for n in words]
        network.past = torch.zeros(network.states, dtype=torch.int64) if network.states else None
        network.prepared("cpu")(*mailbox)
    (launch,) = launches
    assert launch.grid == (network.programs,)
    return _Launch(network, build(launch.spec, capability), launch.arguments, mailbox, launch.spec)


def launches_in(section: bytes) -> list[tuple[int, str, bytes]]:
    """(capability, key, recipe) of each launch of a section. Raises FormatError for other bytes."""
    try:
        magic, version, count, size = _HEAD.unpack_from(section)
        records, at = [], _HEAD.size
        for _ in range(count):
            records.append(_LAUNCH.unpack_from(section, at))
            at += records[-1][0] or len(section)
        keys = [record[16].decode("ascii") for record in records]
    except (struct.error, UnicodeDecodeError):
        magic, version, size = b"", 0, 0
    if (magic, size) != (_MAGIC, len(section)) or version not in (_FLOAT32, _ROUNDED, _SCALED):
        raise FormatError("persistent", "a section that is not whole", "one that rt.save wrote", "Save it again.")
    return [(record[1], key, section[record[17] : record[17] + record[18]]) for record, key in zip(records, keys)]


class _Bytes:
    """What follows the records: each piece once, from a multiple of 64 on."""

    def __init__(self, start: int) -> None:
        self.start, self.all, self.at = start, bytearray(), dict[bytes, int]()

    def put(self, content: bytes) -> int:
        """Where it is, from the start of the section."""
        if content not in self.at:
            self.at[content] = self.start + len(self.all)
            self.all += content + bytes(-len(content) % _ALIGNMENT)
        return self.at[content]


def _section(launches: Sequence[_Launch]) -> bytes:
    records = _HEAD.size + sum(_LAUNCH.size + _PARAMETER.size * launch.count for launch in launches)
    data = _Bytes(records + -records % _ALIGNMENT)
    body = b"".join(_record(launch, data) for launch in launches)
    body += bytes(data.start - records)
    version = _FLOAT32 if all(launch.network.rounding is None for launch in launches) else _ROUNDED
    version = version if all(launch.network.factors is None for launch in launches) else _SCALED
    return _HEAD.pack(_MAGIC, version, len(launches), data.start + len(data.all)) + body + bytes(data.all)


def _record(launch: _Launch, data: _Bytes) -> bytes:
    network, cubin = launch.network, launch.cubin
    if cubin.global_scratch_bytes or cubin.profile_scratch_bytes:
        raise UnsupportedProblem("persistent", f"{cubin.name}, which asks for scratch memory", "none", "Report it.")
    parameters = b"".join(_parameter(*argument, launch, data) for argument in launch.arguments)
    if network.factors is not None:
        content = network.factors.numpy().tobytes()
        parameters += _PARAMETER.pack(_FACTORS, 0, data.put(content), len(content), 0)
    return (
        _LAUNCH.pack(
            _LAUNCH.size + len(parameters), cubin.capability, network.programs, 32 * cubin.num_warps, cubin.shared_bytes,
            cubin.cluster, cubin.cooperative, launch.count, network.inputs, network.outputs, network.commands,
            network.states, data.put(cubin.code), len(cubin.code), cubin.entry.encode(), cubin.name.encode()[:127],
            cubin.key.encode(), data.put(launch.recipe) if launch.recipe else 0, len(launch.recipe),
        )
        + parameters
    )  # fmt: skip


def _parameter(name: str, value: Any, kind: str, launch: _Launch, data: _Bytes) -> bytes:
    if name == "second":  # set of weights; a start begins with the one that the file has
        return _PARAMETER.pack(_SECOND, 0, 0, 0, 0)
    if not kind.startswith("*"):
        form, which = _NUMBERS[kind]
        if launch.network.rounding is not None:
            which = {"inverse": _INVERSE, "zero_point": _ZERO_POINT}.get(name, which)
        number = struct.pack(form, value)
        return _PARAMETER.pack(which, 0, int.from_bytes(number, "little"), 0, 0)
    for which, tensor in zip((_REQUESTS, _REPLIES, _CONTROL), launch.mailbox):
        if value is tensor:
            return _PARAMETER.pack(which, 0, 0, 0, 0)
    if value is launch.network.past:
        return _PARAMETER.pack(_PAST, 0, 0, 0, 0)
    sets = launch.network.sets
    room = value.numel() * value.element_size()
    first = value[0] if sets is not None and any(value is t for t in sets.tensors.values()) else value
    content = (
        bytes(first.contiguous().view(torch.uint8).numpy().tobytes())
        if bool(first.any()) or first is not value
        else b""
    )
    return _PARAMETER.pack(_MEMORY, 0, data.put(content) if content else 0, len(content), room)
