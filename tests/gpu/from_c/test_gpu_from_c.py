"""Persistent kernels from C: a file, NVIDIA's driver, and no Python, here a driver that stands in for it."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.kernels._gpu import cuda_nvrtc
from rtaccel.kernels.mlp.cuda import config as chain_config
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.gpu import persistent_chains, persistent_choice
from tests.cuda_checks import chains, on_host
from tests.cuda_checks.streams import CASES, other_weights
from tests.gpu.from_c.conftest import LIBRARY, Machine, Save, small, stream_of

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="persistent kernels need triton"),
    pytest.mark.skipif(cuda_nvrtc.unavailable() is not None, reason=f"{cuda_nvrtc.unavailable()}"),
    pytest.mark.skipif(on_host.missing() is not None, reason="no C++ compiler"),
]

NO_KERNEL, BAD_KEY, NO_DEVICE, DEVICE_FAILED, NO_ROOM, NO_ANSWER = 6, 5, 10, 11, 12, 13


def numbers(x: Tensor) -> list[float]:
    return x.flatten().tolist()


def same(got: Any, want: Tensor) -> bool:
    assert isinstance(got, str), got
    found = torch.frombuffer(bytearray(bytes.fromhex(got)), dtype=torch.float32).view_as(want)
    return torch.equal(found.nan_to_num(77.0), want.nan_to_num(77.0)) and torch.equal(found.isnan(), want.isnan())


@pytest.mark.parametrize("case", [name for name in CASES if "mapped" not in name])
def test_a_stream_has_the_bits_of_the_cpu(case: str, cut: Any, machine: Machine, save: Save) -> None:
    """With a NaN in one of its time steps, and with states that begin anew."""
    live, partition = stream_of(case)
    cut(partition)
    path = save(live)
    features = CASES[case][1]
    rows = [3 * torch.randn(1, features) for _ in range(7)]
    rows[3][0, features // 2] = float("nan")
    commands: list[Sequence[Any]] = [["open", "a", str(path)]]
    want = []
    for index, x in enumerate(rows):
        if index == 5:
            live.reset()
            commands.append(["reset", "a"])
        want.append(live.step(x).clone())
        commands.append(["step", "a", numbers(x)])
    about, *found = machine.calls(*commands, ["close", "a"])
    assert about["blocks"] == partition.parts and about["capability"] == 90 and about["streams"] == 1
    answers = [answer for answer in found if answer is not None]
    assert len(answers) == len(want)
    for got, y in zip(answers, want):
        assert same(got, y)
    assert bool(want[3].isnan().all()) and not bool(want[5].isnan().any())
    assert machine.said == "left: 0 0 0 0 0, running: 0\n"
    assert len(machine.launches) == 1


@pytest.mark.parametrize("case", ["int8", "int4-groups", "cluster-int8"])
def test_a_chain_has_the_bits_of_the_cpu(
    case: str, machine: Machine, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = chains.CASES[case]
    torch.manual_seed(of.inputs)
    data = [torch.randn(64, of.inputs)]
    plain = rt.compile(of.model().eval(), data[0][:1], scheme=of.scheme, calibration=data)
    assert isinstance(plain, CompiledModel)
    monkeypatch.setattr(
        chain_config,
        "config_of",
        lambda attrs, card: of.config(
            tuple(attrs["widths"]), tuple(attrs["activations"]), int(attrs.get("group_size", 0))
        ),
    )
    with persistent_choice.only(persistent_chains.CUDA):
        path = save(plain)
    rows = [torch.randn(1, of.inputs) * 3 for _ in range(4)]
    rows[1][0, 0] = float("-inf")
    about, *found = machine.calls(["open", "a", str(path)], *(["step", "a", numbers(x)] for x in rows))
    assert about["streams"] == 0 and about["blocks"] == of.parts
    for got, x in zip(found, rows):
        assert same(got, plain(x))


def wide(model: nn.Module, columns: Tensor) -> nn.Module:
    """With weights as small as the columns are large: calibration brings them to one range."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in ("0.weight", "weight_ih_l0"):
                weight /= columns
    return model


def test_columns_of_different_ranges_have_the_bits_of_the_cpu(cut: Any, machine: Machine, save: Save) -> None:
    """Of a chain, whose messages are int8, and of a stream, whose messages are float32."""
    columns = torch.logspace(-1.5, 1.5, 9)
    chain = nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    plain = rt.compile(wide(chain, columns), torch.randn(1, 9), "w8a8", calibration=[torch.randn(256, 9) * columns])
    data = [torch.randn(64, 5, 9) * columns]
    live = rt.stream(wide(nn.LSTM(9, 7, batch_first=True).eval(), columns), torch.randn(1, 9), "w8a8", calibration=data)
    for fast in (plain, live):
        assert "brought to one range" in str(fast.explain(measure=False))
    with persistent_choice.only(persistent_chains.CUDA):
        paths = [str(save(plain, name="chain.rta"))]
    cut(CASES["lstm-one-program"][3])
    paths.append(str(save(live, name="stream.rta")))
    rows = [torch.randn(1, 9) * columns for _ in range(4)]
    rows[1][0, 3] = float("inf")
    rows[2][0, 8] = 3e38  # which its factor keeps finite or not: int8 has its ends
    for path, step in zip(paths, (plain, live.step)):
        _, *found, _ = machine.calls(["open", "a", path], *(["step", "a", numbers(x)] for x in rows), ["close", "a"])
        for got, x in zip(found, rows):
            assert same(got, step(x))
    other = rt.compile(chain, torch.randn(1, 9), "w8a8", calibration=[torch.randn(256, 9)])
    with persistent_choice.only(persistent_chains.CUDA):
        paths.append(str(save(other, name="other.rta")))
    _, refused = machine.calls(["open", "a", paths[0]], ["swap", "a", paths[2]])
    assert refused[0] == 7 and "static scales" in refused[1]


STEP = [0.5] * CASES["lstm-one-program"][1]


def test_a_kernel_ends_with_the_process(file: Path, machine: Machine) -> None:
    machine.calls(["open", "a", str(file)], ["step", "a", STEP])
    assert "running: 0" in machine.said and "left: 0" not in machine.said


@pytest.mark.parametrize("case", ["lstm-one-program", "gru-three-polled", "lstm-int4-two-cluster"])
@pytest.mark.turns(2)
def test_states_go_from_one_to_the_other(case: str, cut: Any, machine: Machine, save: Save) -> None:
    live, partition = stream_of(case)
    cut(partition)
    path, features = str(save(live)), CASES[case][1]
    rows = [torch.randn(1, features) for _ in range(5)]
    steps = [numbers(x) for x in rows]
    _, _, one, two, passed, three, again, kept, zeros, fresh = machine.calls(
        ["open", "a", path], ["open", "b", path], ["step", "a", steps[0]], ["step", "a", steps[1]], ["pass_on", "a", "b"],
        ["step", "b", steps[2]], ["step", "a", steps[2]], ["reset", "b"], ["save", "b"], ["step", "b", steps[0]],
    )  # fmt: skip
    want = [live.step(x).clone() for x in rows[:3]]
    assert same(one, want[0]) and same(two, want[1]) and passed == "loaded" and kept is None
    assert same(three, want[2]) and same(again, want[2])
    assert set(zeros) == {"0"} and same(fresh, want[0])


@pytest.mark.parametrize("case", ["lstm-one-program", "gru-int4-groups", "lstm-int4-two-cluster"])
def test_other_weights_while_it_runs(case: str, cut: Any, machine: Machine, save: Save) -> None:
    """Before the first step, between steps, twice without a step between them, and back; states go on."""
    live, partition = stream_of(case)
    cut(partition)
    first = str(save(live))
    states, paths = [other_weights(live, seed) for seed in (1, 2)], []
    for index, state in enumerate(states):
        other, _ = stream_of(case)
        other.load_state_dict({**other.state_dict(), **state})
        paths.append(str(save(other, name=f"{index}.rta")))
    x = [torch.randn(1, CASES[case][1]) for _ in range(5)]
    rows = [numbers(row) for row in x]
    own = live.state_dict()
    plan: list[tuple[list[str], dict[str, Tensor]]] = [
        ([paths[0]], states[0]), ([], states[0]), ([paths[1], first, paths[1]], states[1]), ([first], own),
        ([paths[0]], states[0]),
    ]  # fmt: skip
    commands: list[list[Any]] = [["open", "a", first]]
    want = []
    for row, given, (swaps, state) in zip(rows, x, plan):
        commands += [["swap", "a", path] for path in swaps] + [["step", "a", row]]
        live.swap({key: value for key, value in {**own, **state}.items() if key != "_extra_state"})
        want.append(live.step(given).clone())
    found = machine.calls(*commands, ["close", "a"])[1:-1]
    assert found.count("swapped") == 6
    for got, y in zip([answer for answer in found if answer != "swapped"], want):
        assert same(got, y)
    assert len(machine.launches) == 1 and "left: 0 0 0 0 0" in machine.said


def test_weights_of_another_model(cut: Any, machine: Machine, save: Save) -> None:
    cut(CASES["lstm-one-program"][3])
    path, x = str(save(small())), torch.tensor([STEP])
    torch.manual_seed(1)
    make, features, scheme, _ = CASES["lstm-one-program"]
    data = [3 * torch.randn(8, 5, features)]
    scales = rt.stream(make().eval(), torch.randn(1, features), scheme=scheme, calibration=data)
    live, partition = stream_of("gru-three")
    others = [str(save(scales, name="scales.rta"))]
    cut(partition)
    others.append(str(save(live, name="gru.rta")))
    _, *refused, missing, step = machine.calls(
        ["open", "a", path],
        *(["swap", "a", other] for other in others),
        ["swap", "a", "/no/such/file"],
        ["step", "a", STEP],
    )
    assert [code for code, _ in refused] == [7, 7] and "static scales" in refused[0][1] and missing[0] == 1
    assert same(step, small().step(x))


def test_states_that_are_no_numbers(file: Path, machine: Machine) -> None:
    nonfinite = "0000c07f" * 42  # 3 layers of 7 units, h and c
    _, loaded, step, saved, _, fresh = machine.calls(
        ["open", "a", str(file)],
        ["load", "a", nonfinite],
        ["step", "a", STEP],
        ["save", "a"],
        ["reset", "a"],
        ["step", "a", STEP],
    )
    assert loaded == "loaded" and same(step, torch.full((1, 2), float("nan"))) and len(saved) == len(nonfinite)
    assert same(fresh, small().step(torch.tensor([STEP])))


def test_two_beside_each_other(cut: Any, machine: Machine, save: Save) -> None:
    """Code is not loaded beside a kernel that runs, and memory is given back when the last one has ended: the driver here ends
    the process where it would wait."""
    cut(CASES["lstm-one-program"][3])
    path, live = str(save(small())), small()
    *opened, one, refused, two, closed, three, _, again, four = machine.calls(
        ["open", "a", path], ["open", "b", path], ["step", "a", STEP], ["open", "c", path], ["step", "b", STEP], ["close", "a"],
        ["step", "b", STEP], ["close", "b"], ["open", "c", path], ["step", "c", STEP],
    )  # fmt: skip
    x = torch.tensor([STEP])
    first, second = live.step(x).clone(), live.step(x).clone()
    assert len(opened) == 2 and closed is None
    assert same(one, first) and same(two, first) and same(three, second)
    assert refused[0] == NO_ROOM and "open all models before" in refused[1]
    assert again["blocks"] == 1 and same(four, first)


def test_a_cluster_that_has_no_room_goes_through_l2(cut: Any, machine: Machine, save: Save) -> None:
    live, partition = stream_of("gru-three-cluster")
    cut(partition)
    path = str(save(live))
    x = torch.randn(1, 33)
    want = live.step(x)
    commands = (["stored", path], ["open", "a", path], ["step", "a", numbers(x)])
    for card, which in (("90,132,232448,8", "0-sm_90 3"), ("90,132,232448,0", "1-sm_90 3")):
        stored, _, got = machine.calls(*commands, STAND_IN_CARD=card)
        assert stored == [90, 90] and same(got, want)
        assert machine.launches[-1] == which


def test_the_example(cut: Any, machine: Machine, save: Save, tmp_path: Path) -> None:
    """A program in C, on the card and on the CPU: the same bytes."""
    cut(CASES["lstm-one-program"][3])
    path, source = save(small()), Path(__file__).parents[3] / "examples" / "native" / "gpu_stream" / "main.c"
    native = LIBRARY.parent
    command = ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", source, f"-I{native / 'include'}", f"-L{native}"]
    command += [f"-Wl,-rpath,{native}", "-lrtaccel", "-o", tmp_path / "gpu_stream"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    x = np.random.default_rng(0).standard_normal((9, len(STEP)), dtype=np.float32)
    x.tofile(tmp_path / "in.f32")
    program = [tmp_path / "gpu_stream", path, tmp_path / "in.f32"]
    done = machine.run([*program, tmp_path / "gpu.f32"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("GPU: lstm_chip_int8_K5_H7_L3_P1") and done.stdout.endswith("9 messages\n")
    (machine.folder / "driver" / "libcuda.so.1").unlink()
    done = machine.run([*program, tmp_path / "cpu.f32"])
    assert done.returncode == 0 and done.stdout.startswith("CPU: NVIDIA's driver is not here")
    assert (tmp_path / "gpu.f32").read_bytes() == (tmp_path / "cpu.f32").read_bytes()
    live = small()
    want = torch.cat([live.step(row[None]) for row in torch.from_numpy(x)])
    assert np.fromfile(tmp_path / "gpu.f32", np.float32).tolist() == want.flatten().tolist()


def test_the_code_for_the_card_is_taken(cut: Any, machine: Machine, save: Save) -> None:
    cut(CASES["lstm-one-program"][3])
    path = str(save(small(), ("sm_80", "sm_86", "sm_90")))
    for card, capability in (("80", 80), ("86", 86), ("89", 86), ("90", 90)):
        stored, about = machine.calls(["stored", path], ["open", "a", path], STAND_IN_CARD=f"{card},100,101376")
        assert sorted(stored) == [80, 86, 90] and about["capability"] == capability
