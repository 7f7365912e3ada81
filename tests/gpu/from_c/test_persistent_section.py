"""What C reads of persistent kernels in a file: any other bytes are refused with the reason, before a driver is asked."""

from __future__ import annotations

import ctypes
import importlib.util
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.core.errors import BackendUnavailable, FormatError, UnsupportedProblem
from rtaccel.deploy import container
from rtaccel.deploy.persistent import section as persistent_section
from tests.deploy import forged
from tests.gpu.from_c import c_calls
from tests.gpu.from_c.conftest import LIBRARY
from tests.support.generators import streams

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="persistent kernels need triton")

CORPUS = Path(__file__).parents[2] / "native" / "corpus"
BAD_FORMAT, NEWER, BAD_DIGEST, BAD_KEY, NO_KERNEL, NO_DEVICE, DEVICE_FAILED = 2, 3, 4, 5, 6, 10, 11
HEAD, RECORD = 64, 304


@pytest.fixture(scope="module")
def lib() -> Any:
    return c_calls.library(str(LIBRARY))


def stored(lib: Any, content: bytes) -> list[int] | tuple[int, str]:
    """Compute capabilities, or why they are refused."""
    found = (ctypes.c_int * 8)()
    count = lib.rta_gpu_stored(content, len(content), found, 8)
    return (lib.rta_error_code(), lib.rta_error().decode()) if count < 0 else list(found[:count])


@pytest.fixture(scope="module")
def whole() -> bytes:
    return (CORPUS / "persistent-chains.rta").read_bytes()


def section_at(whole: bytes) -> int:
    section = container.tensor("test", whole, persistent_section.TENSOR)
    assert section is not None
    return whole.index(section)


def changed(whole: bytes, at: int, form: str, value: Any) -> bytes:
    made = bytearray(whole)
    struct.pack_into(form, made, section_at(whole) + at, value)
    return forged.resealed(made)


def test_what_is_stored(lib: Any, whole: bytes) -> None:
    assert sorted(stored(lib, whole)) == [80, 90]


FIELDS = ("bytes", "capability", "blocks", "threads", "shared_bytes", "cluster", "cooperative", "parameters", "inputs",
          "outputs", "commands", "states")  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("bytes", 0, "a record of 0 bytes"),
        ("bytes", 1 << 31, "a record of 2147483648 bytes"),
        ("capability", 70, "1 blocks"),
        ("capability", 100, "its code is not for sm_100"),
        ("blocks", 0, "0 blocks"),
        ("blocks", 1 << 20, "1048576 blocks"),
        ("threads", 48, "48 threads"),
        ("threads", 2048, "2048 threads"),
        ("shared_bytes", 1 << 20, "1048576 bytes"),
        ("cluster", 3, "1 blocks"),
        ("cooperative", 2, "1 blocks"),
        ("parameters", 300, "with 300 parameters"),
        ("parameters", 1, "with 1 parameters"),
        ("inputs", 4, "4 inputs and 2 outputs, which are not the model's"),
        ("outputs", 0, "0 outputs"),
        ("outputs", 1 << 30, "1073741824 outputs"),
        ("commands", 2, "1 blocks"),
        ("states", 1 << 31, "1 blocks"),
    ],
)
def test_a_field_that_is_wrong(field: str, value: int, text: str, lib: Any, whole: bytes) -> None:
    found = stored(lib, changed(whole, HEAD + 4 * FIELDS.index(field), "<I", value))
    assert isinstance(found, tuple) and found[0] == BAD_FORMAT and text in found[1], found


def of_memory(whole: bytes, kind: int = 4) -> int:
    """Where the first parameter is that has memory with bytes of the file, or is of another kind."""
    at = HEAD + RECORD
    while struct.unpack_from("<IIQQQ", whole, section_at(whole) + at)[0] != kind:
        at += 32
    return at


PARAMETERS: dict[str, Callable[[int], tuple[int, str, int]]] = {
    "kind": lambda at: (at, "<I", 11),
    "memory as factors": lambda at: (at, "<I", 10),
    "two mailboxes": lambda at: (at, "<I", 0),
    "outside": lambda at: (at + 8, "<Q", 1 << 40),
    "just outside": lambda at: (at + 16, "<Q", 1 << 20),
    "between places": lambda at: (at + 8, "<Q", 65),
    "no room": lambda at: (at + 24, "<Q", 0),
    "less room than bytes": lambda at: (at + 24, "<Q", 4),
    "too much room": lambda at: (at + 24, "<Q", 1 << 50),
    "wrapped": lambda at: (at + 8, "<Q", (1 << 64) - 64),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_that_is_wrong(name: str, lib: Any, whole: bytes) -> None:
    found = stored(lib, changed(whole, *PARAMETERS[name](of_memory(whole))))
    assert isinstance(found, tuple) and found[0] == BAD_FORMAT, found


def bits(number: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", number))[0])


@pytest.mark.parametrize(
    ("kind", "at", "form", "value"),
    [
        (8, 8, "<Q", bits(float("inf"))), (8, 8, "<Q", bits(float("nan"))), (8, 8, "<Q", 1 << 33), (8, 0, "<I", 5),
        (8, 0, "<I", 9), (9, 0, "<I", 5), (9, 0, "<I", 8), (9, 8, "<Q", 128), (9, 8, "<Q", (1 << 32) - 129),
        (9, 8, "<Q", (1 << 64) - 1), (9, 16, "<Q", 4),
    ],
)  # fmt: skip
def test_numbers_by_which_x_is_rounded(kind: int, at: int, form: str, value: int, lib: Any, whole: bytes) -> None:
    """Both or neither, each once, and such as there are."""
    found = stored(lib, changed(whole, of_memory(whole, kind) + at, form, value))
    assert isinstance(found, tuple) and found[0] == BAD_FORMAT, found


@pytest.mark.parametrize(
    ("at", "form", "value"),
    [
        (0, "<I", 4), (0, "<I", 11), (4, "<I", 1), (8, "<Q", 1 << 40), (8, "<Q", 65), (16, "<Q", 8), (16, "<Q", 16),
        (16, "<Q", 0), (24, "<Q", 12), (8, "<Q", (1 << 64) - 64),
    ],
)  # fmt: skip
def test_factors_of_columns(at: int, form: str, value: int, lib: Any) -> None:
    """As many as x has numbers, in the section."""
    scaled = (CORPUS / "persistent-scaled.rta").read_bytes()
    assert stored(lib, scaled) == [90]
    found = stored(lib, changed(scaled, of_memory(scaled, 10) + at, form, value))
    assert isinstance(found, tuple) and found[0] == BAD_FORMAT, found


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_factors_that_are_no_numbers(value: float, lib: Any) -> None:
    scaled = (CORPUS / "persistent-scaled.rta").read_bytes()
    at = struct.unpack_from("<Q", scaled, section_at(scaled) + of_memory(scaled, 10) + 8)[0]
    found = stored(lib, changed(scaled, at + 4, "<f", value))
    assert isinstance(found, tuple) and "a factor of a column" in found[1], found


def test_factors_are_there_once(lib: Any) -> None:
    scaled = (CORPUS / "persistent-scaled.rta").read_bytes()
    own = section_at(scaled) + of_memory(scaled, 10)
    other = of_memory(scaled, 5)  # a number of the launch gives way
    made = bytearray(scaled)
    made[section_at(scaled) + other : section_at(scaled) + other + 32] = scaled[own : own + 32]
    found = stored(lib, forged.resealed(made))
    assert isinstance(found, tuple) and "twice" in found[1], found


def test_heads_and_names(lib: Any, whole: bytes) -> None:
    for at, form, value, code in (
        (0, "<8s", b"RTASTAYZ", BAD_FORMAT), (8, "<I", 4, NEWER), (8, "<I", 0, BAD_FORMAT), (12, "<I", 0, BAD_FORMAT),
        (12, "<I", 3, BAD_FORMAT), (12, "<I", 1 << 20, BAD_FORMAT), (16, "<Q", 64, BAD_FORMAT),
        (HEAD + 48, "<Q", 1 << 40, BAD_FORMAT), (HEAD + 48, "<Q", 1, BAD_FORMAT), (HEAD + 56, "<Q", 8, BAD_FORMAT),
        (HEAD + 64, "<64s", b"x" * 64, BAD_FORMAT), (HEAD + 64, "<64s", b"", BAD_FORMAT), (HEAD + 128, "<8s", b"\n", BAD_FORMAT),
    ):  # fmt: skip
        found = stored(lib, changed(whole, at, form, value))
        assert isinstance(found, tuple) and found[0] == code, (at, value, found)


def code_at(whole: bytes) -> int:
    return int(struct.unpack_from("<Q", whole, section_at(whole) + HEAD + 48)[0])


@pytest.mark.parametrize(
    ("at", "form", "value"),
    [
        (0, "<I", 7), (18, "<H", 62), (40, "<Q", 1 << 30), (40, "<Q", (1 << 64) - 32), (58, "<H", 8), (60, "<H", 0),
        (60, "<H", 99), (56, "<H", 3), (68, "<I", 1),
    ],
)  # fmt: skip
def test_code_whose_parts_are_not_there(at: int, form: str, value: int, lib: Any, whole: bytes) -> None:
    """The driver is told no size of the code, so what its head says is looked at here."""
    made = bytearray(whole)
    if at == 68:  # the only section has bytes, somewhere else
        struct.pack_into("<QQ", made, section_at(whole) + code_at(whole) + 64 + 24, 1 << 20, 8)
    if at == 56:  # three segments, far away
        struct.pack_into("<Q", made, section_at(whole) + code_at(whole) + 32, 1 << 30)
    found = stored(lib, changed(bytes(made), code_at(whole) + at, form, value))
    assert isinstance(found, tuple) and found[0] == BAD_FORMAT and "its code is not for" in found[1]


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (b'"persistent":', b'"persistenT":', NO_KERNEL),
        (b'"persistent":', b'"persi\\tent":', NO_KERNEL),
        (b'"persistent":{"dtype":"U8"', b'"persistent":{"dtype":"I8"', BAD_FORMAT),
        (b'"persistent":{"dtype":"U8","shape":[', b'"persistent":{"dtype":"U8","shape":{', BAD_FORMAT),
    ],
)
def test_a_header_that_is_another(old: bytes, new: bytes, code: int, lib: Any, whole: bytes) -> None:
    found = stored(lib, forged.resealed(whole.replace(old, new)))
    assert isinstance(found, tuple) and found[0] == code


def test_places_outside_of_the_file(lib: Any, whole: bytes) -> None:
    name = whole.index(b'"persistent":')
    offsets = whole.index(b"offsets", name) + len(b'offsets":[')
    for digits in (b"9", b"0"):
        made = bytearray(whole)
        made[offsets : offsets + 1] = digits
        found = stored(lib, forged.resealed(made))
        assert isinstance(found, tuple) and found[0] == BAD_FORMAT


def test_every_length(lib: Any, whole: bytes) -> None:
    for size in (*range(0, 300, 7), *range(300, len(whole), 101)):
        found = stored(lib, whole[:size])
        assert isinstance(found, tuple) and found[0] in (BAD_FORMAT, BAD_DIGEST)


def test_bytes_that_were_changed_on_the_way(lib: Any, whole: bytes) -> None:
    made = bytearray(whole)
    made[-1] ^= 1
    assert stored(lib, bytes(made))[0] == BAD_DIGEST


def test_a_file_without_them(lib: Any) -> None:
    code, text = stored(lib, (CORPUS / "linear.rta").read_bytes())
    assert code == NO_KERNEL and "persistent=" in str(text)


def test_keys(lib: Any, whole: bytes, tmp_path: Path) -> None:
    """A signature is looked at before the driver: what nobody signed is put onto no card where a key is given."""
    crypto = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    key, other = crypto.Ed25519PrivateKey.generate(), crypto.Ed25519PrivateKey.generate()
    signed = container.with_signature(whole, key.sign(container.PREAMBLE + container.digest(whole)))
    path = tmp_path / "model.rta"
    no_sodium, loaded = (9,), (NO_DEVICE, DEVICE_FAILED, NO_KERNEL)  # whose code is none
    for content, by, codes in ((signed, key, loaded), (signed, other, (BAD_KEY,)), (whole, key, (BAD_KEY,))):
        path.write_bytes(content)
        assert not lib.rta_gpu_open(str(path).encode(), by.public_key().public_bytes_raw(), 0)
        assert lib.rta_error_code() in codes + no_sodium, lib.rta_error()
    lib.rta_gpu_open(str(path).encode(), None, 0)
    assert lib.rta_error_code() in loaded


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    fast = rt.compile(net, torch.randn(1, 6), "w8a8", calibration=[torch.randn(16, 6)])
    with pytest.raises(FormatError, match=r"persistent=\['sm_70'\]"):
        rt.save(fast, tmp_path / "a.rta", persistent=["sm_70"])
    with pytest.raises(UnsupportedProblem, match="persistent"):
        rt.save(rt.compile(net, torch.randn(1, 6)), tmp_path / "a.rta", persistent=["sm_90"])
    assert not (tmp_path / "a.rta").exists()


def test_what_triton_has_is_stored_too(lib: Any, tmp_path: Path) -> None:
    """A stream of convolutions: its weights twice, of which the file has one set, and rings that a start finds zeroed."""
    net = streams.Causal(4, 6, (1, 2), True).eval()
    live = rt.stream(net, torch.randn(1, 4), "w8a8", calibration=[torch.randn(1, 4, 12) for _ in range(3)])
    whole = rt.save(live, tmp_path / "tcn.rta", persistent=["sm_90", "sm_80"]).read_bytes()
    found = stored(lib, whole)
    assert isinstance(found, list) and sorted(found) == [80, 90]
    parameters = struct.unpack_from("<I", whole, section_at(whole) + HEAD + 28)[0]
    at = section_at(whole) + HEAD + RECORD
    memory = [row for i in range(parameters) if (row := struct.unpack_from("<IIQQQ", whole, at + 32 * i))[0] == 4]
    assert [(size, room) for _, _, _, size, room in memory if size == 0] and [
        room for _, _, _, size, room in memory if room == 2 * size
    ]


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rtaccel.core import settings

    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    fast = rt.compile(net, torch.randn(1, 6), "w8a8", calibration=[torch.randn(16, 6)])
    monkeypatch.setattr(settings, "triton_interpret", lambda: True)
    with pytest.raises(BackendUnavailable, match="persistent= without a compiler"):
        rt.save(fast, tmp_path / "a.rta", persistent=["sm_90"])
