"""GPU kernels in the file of a model: what is saved is what a GPU's plan binds, who takes them asks no compiler, and no other
bytes are taken."""

from __future__ import annotations

import functools
import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

pytest.importorskip("triton")

import rtaccel as rt
from rtaccel.core import settings as switches
from rtaccel.core.errors import BackendUnavailable, FormatError, UnsupportedProblem
from rtaccel.deploy import gpu_kernels, prepacked
from rtaccel.deploy.container import sealed
from rtaccel.deploy.gpu_kernels import kernels_in, load_kernels, section_of, stored
from rtaccel.kernels._gpu import cubin_launch, cuda_nvrtc, triton_launch
from rtaccel.kernels._gpu.cubin_store import Cubin
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.gpu.ahead import kernels_of, kernels_of_program, stream_kernels_of

pytestmark = pytest.mark.skipif(switches.triton_interpret(), reason="kernels are interpreted in this process")

CARDS = ("sm_80", "sm_90")


@functools.cache
def compiled() -> CompiledModel:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.LayerNorm(32), nn.Linear(32, 4)).eval()
    return rt.compile(net, torch.randn(1, 16), "w8a16")


@functools.cache
def bytes_of() -> bytes:
    from rtaccel.deploy.save import artifact_bytes

    return artifact_bytes(
        compiled(), sections={gpu_kernels.TENSOR: section_of(gpu_kernels.kernels_for(compiled(), CARDS))}
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.rta"
    path.write_bytes(bytes_of())
    return path


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A card that kernels are loaded onto, and no compiler: capability; loaded, in order."""
    played = SimpleNamespace(capability=90, loaded=[])

    def load(cubin: Cubin) -> Cubin:
        played.loaded.append(cubin)
        return cubin

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: divmod(played.capability, 10))
    about = SimpleNamespace(major=9, minor=0, multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: about)
    monkeypatch.setattr(cubin_launch, "unavailable", lambda: None)
    monkeypatch.setattr(cubin_launch, "load", load)
    monkeypatch.setattr(triton_launch, "_files", [])
    monkeypatch.setenv(switches.KERNELS, str(tmp_path / "no kernels"))
    monkeypatch.delenv(switches.NO_JIT, raising=False)
    return played


def wanted() -> dict[str, Any]:
    """What a GPU's plan of the same model binds."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.LayerNorm(32), nn.Linear(32, 4)).eval()
    return dict(kernels_of(net, torch.randn(1, 16), "w8a16"))


def test_what_is_saved_is_what_a_gpu_binds(file: Path, card: Any) -> None:
    specs = wanted()
    assert len(specs) >= 3
    assert {(c.key, c.capability) for c in stored(file)} == {(key, c) for key in specs for c in (80, 90)}
    with load_kernels(file, unsigned=True) as found:
        assert found.architectures == CARDS and set(found.names) == {spec.name for spec in specs.values()}
        for key, spec in specs.items():
            assert triton_launch.bind(spec) is card.loaded[-1]
            assert (card.loaded[-1].key, card.loaded[-1].capability) == (key, 90)
        card.capability = 86  # runs the code of 8.0
        triton_launch.bind(next(iter(specs.values())))
        assert card.loaded[-1].capability == 80


class Keeping(nn.Module):
    """A cell whose state the model keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(6, 16), nn.Linear(16, 3)
        self.register_buffer("h", torch.zeros(1, 16))

    def forward(self, x: torch.Tensor) -> Any:
        self.h = self.cell(x, self.h)
        return self.head(self.h)


@pytest.mark.parametrize("kind", ["layers", "stream", "state"])
@pytest.mark.parametrize("ranges", [0.0, 1.5])
def test_a_model_of_a_cpu_has_the_kernels_of_a_card(kind: str, ranges: float) -> None:
    """Calibration brings its columns to one range on both, or on neither."""
    torch.manual_seed(3)
    columns = torch.logspace(-ranges, ranges, 6)
    model: nn.Module = {
        "layers": lambda: nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3)),
        "stream": lambda: nn.GRU(6, 16, batch_first=True), "state": Keeping,
    }[kind]().eval()  # fmt: skip
    with torch.no_grad():
        for weight in (p for p in model.parameters() if p.dim() == 2 and p.shape[1] == 6):
            weight /= columns
    x = torch.randn(1, 6) * columns
    data = [torch.randn(*shape, 6) * columns for shape in (((8, 40),) if kind == "stream" else [(1,)] * 300)]
    if kind == "stream":
        there = rt.stream(model, x, "w8a8", calibration=data)
        wanted = stream_kernels_of(model, x, "w8a8", data, 90)
    else:
        there = rt.compile(model, (x,), "w8a8", calibration=data)
        wanted = kernels_of(model, (x,), "w8a8", data)
    assert ("brought to one range" in str(there.explain(measure=False))) == (ranges > 0)
    assert set(kernels_of_program(there._program, 1, 90, kind == "stream")) == set(wanted)


def test_the_model_is_the_same_model(file: Path, tmp_path: Path) -> None:
    plain, x = rt.save(compiled(), tmp_path / "plain.rta"), torch.randn(3, 16)
    want = compiled()(x).numpy()
    for path in (file, rt.save(compiled(), tmp_path / "both.rta", kernels=("sm_90",), prepacked=True)):
        assert rt.load(path)(x.numpy()).tobytes() == want.tobytes()
        assert rt.load(path, in_place=True)(x.numpy()).tobytes() == want.tobytes()
    with pytest.raises(FormatError, match="a file without kernels"):
        stored(plain)
    before = {(c.key, c.capability) for c in stored(file)}
    prepacked.prepack(file)
    assert {(c.key, c.capability) for c in stored(file)} == before
    assert rt.load(file)(x.numpy()).tobytes() == want.tobytes()


def test_a_kernel_that_is_missing_is_refused_or_compiled(file: Path, card: Any) -> None:
    other = dict(kernels_of(nn.Sequential(nn.Linear(24, 8)).eval(), torch.randn(1, 24), "w8a16"))
    spec = next(iter(other.values()))
    with load_kernels(file, unsigned=True), pytest.raises(BackendUnavailable, match="otherwise='refuse'"):
        triton_launch.bind(spec)
    with load_kernels(file, unsigned=True, otherwise="compile"):
        assert isinstance(triton_launch.bind(spec), triton_launch._Jit)
    assert isinstance(triton_launch.bind(next(iter(wanted().values()))), triton_launch._Jit)  # it was closed
    assert not card.loaded


def test_another_card_is_refused_or_named(file: Path, card: Any) -> None:
    card.capability = 120
    with pytest.raises(BackendUnavailable, match=r"sm_80, sm_90; expected some for this card, sm_120"):
        load_kernels(file, unsigned=True)
    assert triton_launch.may_compile()
    with load_kernels(file, unsigned=True, otherwise="compile"):
        assert isinstance(triton_launch.bind(next(iter(wanted().values()))), triton_launch._Jit)


def test_without_a_card(file: Path) -> None:
    with pytest.raises(BackendUnavailable, match="load_kernels"):
        load_kernels(file, unsigned=True)


def test_code_is_signed_or_named_as_unsigned(file: Path, tmp_path: Path, card: Any) -> None:
    with pytest.raises(UnsupportedProblem, match="unsigned=True"):
        load_kernels(file)
    with pytest.raises(FormatError, match="otherwise='maybe'"):
        load_kernels(file, unsigned=True, otherwise="maybe")
    pytest.importorskip("cryptography")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    signed = rt.save(compiled(), tmp_path / "signed.rta", kernels=["sm_90"], sign=key)
    with load_kernels(signed, verify_key=key.public_key()) as found:
        assert found.architectures == ("sm_90",)
    for path, by in ((signed, other), (file, key)):
        with pytest.raises(FormatError):
            load_kernels(path, verify_key=by.public_key())
    assert not triton_launch._files


def test_damage_is_found(file: Path, card: Any) -> None:
    whole = file.read_bytes()
    for at in (260, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(FormatError):
            load_kernels(file, unsigned=True)
    file.write_bytes(whole[:-70])
    with pytest.raises(FormatError):
        load_kernels(file, unsigned=True)


def section() -> bytes:
    from rtaccel.deploy import container

    found = container.tensor("test", bytes_of(), gpu_kernels.TENSOR)
    assert found is not None
    return found


def forged(change: Any) -> bytes:
    """The section with other records."""
    whole = section()
    (length,) = struct.unpack_from("<Q", whole, 8)
    records = json.loads(whole[16 : 16 + length])
    records = change(records) or records
    index = json.dumps(records).encode()
    index += b" " * (-(16 + len(index)) % 64)
    return b"RTACUBIN" + struct.pack("<Q", len(index)) + index + whole[16 + length :]


def test_a_section_is_what_it_was_made_of() -> None:
    found = kernels_in(section())
    assert section_of(found) == section() and len(found) == 2 * len(wanted())
    assert kernels_in(forged(lambda records: None)) == found


WRONG = [
    -1, 1 << 70, 0.5, True, None, "", "x" * 1000, [], {}, "\n", "none", 7, [["a", "b"]], [["p", "i32"]] * 300, [[1, 2]],
]  # fmt: skip
FIELDS = (
    "key", "capability", "name", "entry", "parameters", "num_warps", "shared_bytes", "global_scratch_bytes",
    "profile_scratch_bytes", "cooperative", "built_with", "at", "bytes", "sha256", "cluster",
)  # fmt: skip


@given(st.integers(0, 5), st.sampled_from(FIELDS), st.sampled_from(WRONG), st.sampled_from(["put", "drop", "more"]))
@settings(max_examples=150, deadline=None)
def test_no_other_field_is_taken(which: int, name: str, value: Any, how: str) -> None:
    """A record is taken only where each field is of its kind and in its range: a number, a text that is printable and short."""

    def change(records: list[dict[str, Any]]) -> None:
        record = records[which % len(records)]
        if how == "put":
            record[name] = value
        elif how == "drop":
            del record[name]
        else:
            record["more"] = value

    plain = {(c.key, c.capability): c for c in kernels_in(section())}
    try:
        found = kernels_in(forged(change))
    except FormatError:
        return
    assert how == "put"
    texts = ("key", "name", "entry", "built_with")
    small = {"num_warps": 7, "shared_bytes": 7, "cluster": 7}
    fine = (
        (name in texts and isinstance(value, str) and value.isprintable() and len(value) <= 400)
        or (small.get(name) == value and type(value) is int)
        or (name == "parameters" and value == [])
        or (name == "cooperative" and value is True)
    )
    assert fine, (name, value)
    assert [c.code for c in found] == [c.code for c in plain.values()] or name == "key"


@pytest.mark.parametrize("cluster", [-5, 17, 10**9, "x", None, [1], True, 2.5])
def test_a_cluster_that_no_card_has_is_not_taken(cluster: Any) -> None:
    with pytest.raises(FormatError, match="cluster"):
        kernels_in(forged(lambda records: records[0].update(cluster=cluster)))
    assert kernels_in(forged(lambda records: records[0].update(cluster=16)))[0].cluster == 16


def test_code_for_another_card_is_not_taken() -> None:
    def change(records: list[dict[str, Any]]) -> None:
        for record in records:
            record["capability"] = {80: 90, 90: 80}[record["capability"]]

    with pytest.raises(FormatError, match="not for sm_"):
        kernels_in(forged(change))
    with pytest.raises(FormatError, match="there twice"):
        kernels_in(forged(lambda records: [*records, records[0]]))
    code = b"\x7fELF" + bytes(200)
    cubin = kernels_in(section())[0]
    with pytest.raises(FormatError, match="not for sm_"):
        kernels_in(section_of([Cubin(**{**vars(cubin), "code": code})]))


@given(st.integers(0, 1 << 20), st.integers(0, 255))
@settings(max_examples=200, deadline=None)
def test_any_other_byte_is_refused_or_of_no_account(at: int, value: int) -> None:
    """The digests of codes and the kinds of fields leave names, spaces and what is between codes."""
    whole = bytearray(section())
    at %= len(whole)
    whole[at] = value
    try:
        found = kernels_in(bytes(whole))
    except FormatError:
        return
    assert [c.code for c in found] == [c.code for c in kernels_in(section())]


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_no_other_bytes_are_a_section(data: bytes) -> None:
    for given_bytes in (data, b"RTACUBIN" + data):
        try:
            assert kernels_in(given_bytes) == []
        except FormatError:
            continue


def test_a_place_outside_the_file_is_refused(file: Path, card: Any) -> None:
    whole = file.read_bytes()
    (length,) = struct.unpack_from("<Q", whole)
    header = json.loads(whole[8 : 8 + length])
    for offsets in ([0, 1 << 40], [-1, 5], [9, 3], ["a", "b"], 5, [1]):
        header["kernels"]["data_offsets"] = offsets
        text = json.dumps(header, separators=(",", ":")).encode()
        assert len(text) <= length or offsets == [0, 1 << 40]
        text += b" " * (max(length, len(text)) - len(text))
        made = sealed(struct.pack("<Q", len(text)) + text + whole[8 + length :])
        with pytest.raises(FormatError):
            load_kernels(made, unsigned=True)


def test_cards_and_models_that_there_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cards in (["sm_70"], ["h100"], "sm_1"):
        with pytest.raises(FormatError, match="sm_90"):
            rt.save(compiled(), tmp_path / "never.rta", kernels=cards)
    monkeypatch.setenv(switches.TRITON_INTERPRET, "1")
    with pytest.raises(BackendUnavailable, match="triton"):
        rt.save(compiled(), tmp_path / "never.rta", kernels=["sm_90"])
    assert not (tmp_path / "never.rta").exists()


@pytest.mark.skipif(cuda_nvrtc.unavailable() is not None, reason=f"{cuda_nvrtc.unavailable()}")
def test_the_kernel_of_a_stream(tmp_path: Path) -> None:
    """The one in CUDA C++, which a stream on a card takes; with the states that the file has."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stack, self.head = nn.GRU(8, 16, batch_first=True), nn.Linear(16, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.stack(x)[0][:, -1])

    live = rt.stream(Net().eval(), torch.randn(1, 8), "w8a8", [torch.randn(4, 6, 8)])
    live.step(torch.randn(1, 8))
    path = rt.save(live, tmp_path / "stream.rta", kernels=["sm_90"], states=True)
    (cubin,) = stored(path)
    assert cubin.name.startswith("gru_chip_int8_K8_H16") and cubin.built_with.startswith(("NVRTC", "nvrtc"))
    loaded, x = rt.load(path), torch.randn(1, 8)
    assert loaded.step(x.numpy()).tobytes() == live.step(x).numpy().tobytes()
    plain = rt.stream(nn.Sequential(nn.Linear(4, 4)).eval(), torch.randn(1, 4))
    with pytest.raises(UnsupportedProblem):
        rt.save(plain, tmp_path / "no.rta", kernels=["sm_90"])
