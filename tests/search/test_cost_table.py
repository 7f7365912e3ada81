"""The table of stage times: what shares an entry, what the file may hold, and a plan's time as the sum of its stages."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.core.scheme import W4A8, W8A8, Float32
from rtaccel.search.clock import Clock
from rtaccel.search.cost_model import CostModel, neighbors
from rtaccel.search.cost_table import CostTable, machine, whole_calls
from rtaccel.search.options import layers_of
from rtaccel.search.workbench import Workbench


@pytest.fixture(scope="module")
def bench() -> Workbench:
    torch.manual_seed(0)
    sizes = (32, 64, 64, 64, 8)
    layers = [m for k, n in itertools.pairwise(sizes) for m in (nn.Linear(k, n), nn.ReLU())]
    return Workbench(nn.Sequential(*layers[:-1]).eval(), torch.randn(1, 32), [torch.randn(64, 32)])


def test_layers_of_one_size_and_format_share_an_entry(bench: Workbench) -> None:
    table = CostTable(bench.rows)
    keys = table.add(bench.program({"*": Float32()}))
    assert keys[1] == keys[2] and len(set(keys)) == 3
    int8 = table.add(bench.program({"*": W8A8()}))
    assert len(int8) == 5 and len(set(int8)) == 4  # the input is quantized by a stage of its own
    assert not set(int8) & set(keys)
    mixed = table.add(bench.program({"2": W8A8(), "4": W8A8()}))
    assert set(mixed) & set(keys)


def test_times_are_measured_once_and_kept_in_a_file(bench: Workbench, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "times.json"
    table = CostTable(bench.rows, file)
    keys = table.add(bench.program({"*": W8A8()}))
    assert table.us(keys) == 0
    table.measure(rounds=3)
    assert table.us(keys) > 0
    content = json.loads(file.read_text())
    assert content["machine"] == machine() and set(content["us"]) == set(keys)
    again = CostTable(bench.rows, file)
    assert again.us(again.add(bench.program({"*": W8A8()}))) == pytest.approx(table.us(keys))
    again.add(bench.program({"*": W4A8()}))
    again.measure(rounds=3)
    assert set(json.loads(file.read_text())["us"]) > set(keys)  # what was known is kept


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"version": 1}', '{"version": 1, "machine": {"cpu": "another"}, "us": {}}', "\x00\xff"],
)
def test_a_file_of_another_machine_or_no_file_of_ours_is_not_read(
    bench: Workbench, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "times.json"
    file.write_text(content, encoding="utf-8")
    table = CostTable(bench.rows, file)
    keys = table.add(bench.program({"*": W8A8()}))
    assert table.us(keys) == 0
    table.measure(rounds=3)
    assert json.loads(file.read_text())["machine"] == machine()


def test_times_that_are_none_are_not_read(bench: Workbench, tmp_path: Path) -> None:
    file = tmp_path / "times.json"
    table = CostTable(bench.rows, file)
    keys = table.add(bench.program({"*": W8A8()}))
    content = {"version": 1, "machine": machine(), "us": dict.fromkeys(keys, float("nan"))}
    file.write_text(json.dumps(content))
    again = CostTable(bench.rows, file)
    assert again.us(again.add(bench.program({"*": W8A8()}))) == 0


def test_a_folder_that_cannot_be_written_is_no_error(bench: Workbench, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    table = CostTable(bench.rows, tmp_path / "file" / "times.json")
    table.add(bench.program({"*": Float32()}))
    table.measure(rounds=3)


def test_options_and_neighbors_add_up_to_the_plan(bench: Workbench) -> None:
    """On a chain a plan's stages are those of its options and of its pairs: nothing is counted twice or left out."""
    layers = layers_of(bench.graph, (Float32(), W8A8(), W4A8()), None, [])
    table = CostTable(bench.rows)
    model = CostModel(bench, layers, table)
    model.measure(Clock(600))
    assert sorted(model.pairs) == neighbors(bench, layers) == [(0, 1), (1, 2), (2, 3)]
    base = model.stages_us(model.reference)
    for plan in [(1, 1, 1, 1), (0, 1, 1, 0), (1, 0, 0, 1), (0, 0, 1, 1)]:
        times = sum(float(t[o]) for t, o in zip(model.times, plan))
        pairs = sum(float(m[plan[a], plan[b]]) for (a, b), m in model.pairs.items())
        # Pairs of int8 layers were probed with W8A8: exact for it, whatever the times are.
        assert base + times + pairs == pytest.approx(model.stages_us(plan), abs=1e-9)


def test_whole_calls_are_timed_by_name() -> None:
    counts = {"a": 0, "b": 0}

    def call(name: str) -> None:
        counts[name] += 1

    found = whole_calls({name: lambda name=name: call(name) for name in counts}, 0.01, rounds=5)
    assert set(found) == {"a", "b"} and all(us > 0 for us in found.values()) and min(counts.values()) > 5


def test_layers_that_read_one_value_are_neighbors() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.a(x)) + self.b(x)

    bench = Workbench(Both().eval(), torch.randn(1, 16), None)
    layers = layers_of(bench.graph, (Float32(), rt.W8A8()), None, [])
    assert [{layers[a].name, layers[b].name} for a, b in neighbors(bench, layers)] == [{"a", "b"}]
