"""The doors of the zoo: what holds, what is refused, what is wrong and is seen, what ends a process, and the command."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from bench.zoo import __main__ as command_line
from bench.zoo import page, results
from bench.zoo.doors import alone, calls, files, summary, values, worker
from bench.zoo.doors.outcome import STATUSES, Doors, NothingToTry, Outcome, outcome
from bench.zoo.doors.subject import Subject, same_bits
from bench.zoo.doors.through import DOORS
from bench.zoo.entry import Entry


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Small(nn.Module):
    """Numbers and an index in, two results."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.first, self.second = nn.Embedding(9, 12), nn.Linear(12, 17), nn.Linear(17, 5)

    def forward(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(self.first(x + self.table(index)))
        return self.second(y), y.amax(-1)


class Drawn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class Changed(nn.Module):
    """A compiled network whose results are changed by `by`, given the inputs and the results."""

    def __init__(self, fast: Any, by: Callable[[Sequence[Tensor], Any], Any]) -> None:
        super().__init__()
        self.fast, self.by = fast, by

    def forward(self, *inputs: Tensor) -> Any:
        return self.by(inputs, self.fast(*inputs))


def small() -> Subject:
    torch.manual_seed(3)
    return Subject(Small().eval(), (torch.randn(1, 7, 12), torch.randint(0, 9, (1, 7))))


def entry_of(model: nn.Module, *inputs: Any, package: str = "torch") -> Entry:
    return Entry("net", package, lambda: (model.eval(), inputs), domain="control")


def test_every_door_holds_for_a_small_network() -> None:
    pytest.importorskip("onnx")
    subject = small()
    found = {name: outcome(lambda door=door: door(subject)) for name, door in DOORS.items()}
    assert {name: one for name, one in found.items() if one.status != "ok"} == {}
    assert found["other dtypes"].text.count("ShapeError") == 4 and found["half inputs"].text.count("ShapeError") == 2
    assert found["batch"].text.startswith("taken: [2, 3, 7, 0]")
    assert all(found[name].error is not None for name in ("values", "batch", "ONNX", "W8A8", "bfloat16"))
    assert found["values"].error < 1e-6 < found["W8A8"].error < 0.1


def test_networks_with_nothing_to_try_say_why() -> None:
    drawn = Subject(Drawn().eval(), (torch.randn(1, 4),))
    assert outcome(lambda: calls.values(drawn)) == Outcome("left out", text="the network draws random numbers")
    words = Subject(nn.Embedding(5, 3).eval(), (torch.randint(0, 5, (2, 4)),))
    for door in (values.nan, values.half, values.half_model, calls.batch):
        assert outcome(lambda door=door: door(words)).status == "left out"
    with pytest.raises(NothingToTry, match="slice"):
        files.nested((slice(None),))


def _first(result: Any) -> Tensor:
    return result[0]


WRONG = {
    "values": lambda inputs, result: (_first(result) * 1.001, result[1]),
    "again": lambda inputs, result: (_first(result) + torch.rand(()), result[1]),
    "strided": lambda inputs, result: (_first(result) * (1 if inputs[0].is_contiguous() else 1.001), result[1]),
    "batch": lambda inputs, result: (_first(result) * (1 if len(inputs[0]) == 1 else 1.001), result[1]),
    "NaN": lambda inputs, result: (_first(result).nan_to_num(0.0), result[1]),
    "half inputs": lambda inputs, result: result,
    "second": lambda inputs, result: (_first(result) + 1e-7, result[1]),
}  # fmt: skip
"""What is done to the results of a compiled network, of which the door of this name must not say that it holds."""


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_result_is_seen(name: str) -> None:
    subject = small()
    fast = subject.fast
    if name == "half inputs":  # takes them, and computes with other numbers

        def taken(*inputs: Tensor) -> Any:
            wide = inputs[0].dtype == torch.float32
            return fast(inputs[0] if wide else inputs[0].float() * 1.1, inputs[1])

        subject.__dict__["fast"] = taken
    else:
        subject.__dict__["fast"] = Changed(fast, WRONG[name])
    found = outcome(lambda: DOORS[name](subject))
    assert found.status == "wrong" and found.text, found


def test_a_nan_that_spreads_to_another_sample_is_seen() -> None:
    subject = small()

    def spread(inputs: Sequence[Tensor], result: Any) -> Any:
        return (result[0] + (torch.nan if len(inputs[0]) > 1 and inputs[0].isnan().any() else 0.0), result[1])

    subject.__dict__["fast"] = Changed(subject.fast, spread)
    found = outcome(lambda: values.nan(subject))
    assert found.status == "wrong" and "changes sample 0" in found.text


def test_a_file_with_other_weights_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, other = small(), small()
    with torch.no_grad():
        other.model.second.weight.mul_(1.001)
    save = rt.save
    monkeypatch.setattr(rt, "save", lambda model, path, **options: save(other.fast, path, **options))
    for door in (files.saved, files.without_torch):
        found = outcome(lambda door=door: door(subject))
        assert found.status == "wrong" and "other bits" in found.text


def test_errors_by_type() -> None:
    def refuses() -> None:
        raise rt.UnsupportedProblem("save", "this", "that", "Do so.")

    def fails() -> None:
        raise KeyError("net")

    assert outcome(refuses) == Outcome("refused", "UnsupportedProblem", "save: got this; expected that. Do so.")
    assert outcome(fails) == Outcome("failed", "KeyError", "'net'")


def test_bits_tell_zeros_and_dtypes_apart() -> None:
    x = torch.tensor([0.0, torch.nan])
    assert same_bits([x], [x.clone()]) and same_bits([x[0]], [x[0]])
    assert not same_bits([x], [-x]) and not same_bits([x], [x.double()]) and not same_bits([x], [])


def test_a_network_that_is_not_to_be_had_or_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "doors.json"

    def status_of(entry: Entry) -> Doors:
        worker.go(entry, target, ["values"])
        stored = json.loads(target.read_text())
        assert stored.pop("begun") == ""
        return Doors.from_json(stored)

    absent = status_of(entry_of(nn.Linear(4, 4), torch.rand(1, 4), package="no-such-distribution"))
    assert absent.status == "left out" and "no-such-distribution" in absent.reason
    assert status_of(entry_of(nn.Linear(4, 4), torch.rand(1, 5))).status == "broken"
    assert status_of(entry_of(nn.Linear(4, 4), torch.rand(1, 4))).by_door["values"].status == "ok"


def test_a_door_that_ends_its_process_costs_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dies.py").write_text(
        "import json, os, sys, time\n"
        "name, target, *doors = sys.argv[1:]\n"
        "done = {}\n"
        "for door in doors:\n"
        "    open(target, 'w').write(json.dumps({'name': name, 'domain': 'd', 'package': 'p', 'status': 'through',\n"
        "                                        'by_door': done, 'begun': door}))\n"
        "    if door == 'dies': os.abort()\n"
        "    if door == 'hangs': time.sleep(600)\n"
        "    done[door] = {'status': 'ok'}\n"
        "open(target, 'w').write(json.dumps({'name': name, 'domain': 'd', 'package': 'p', 'status': 'through',\n"
        "                                    'by_door': done, 'begun': ''}))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    entry = entry_of(nn.Linear(4, 4), torch.rand(1, 4))
    found = alone.go_alone(entry, ["one", "dies", "two", "hangs", "three"], 5, "dies")
    assert {name: one.status for name, one in found.by_door.items()} == {
        "one": "ok", "dies": "crashed", "two": "ok", "hangs": "timed out", "three": "ok",
    }  # fmt: skip
    assert "status -6" in found.by_door["dies"].text and set(found.by_door) == {"one", "dies", "two", "hangs", "three"}
    (tmp_path / "none.py").write_text("import os\nos.abort()\n")
    assert alone.go_alone(entry, ["one"], 60, "none").status == "crashed"
    assert alone.go_alone(entry, ["one"], 0.01, "none").status == "timed out"


NOT_SAVED = [Outcome("refused", "UnsupportedProblem", f"save: got {title} with x") for title in ("MLP", "GRU")]
CANNED = [
    Doors("mlp", "control", "torch", "through", form="CompiledModel",
          by_door={"values": Outcome("ok", error=2e-7), "save": NOT_SAVED[0]}),
    Doors("gru", "audio", "torch", "through", form="StatefulModel",
          by_door={"values": Outcome("wrong", text="an error of 1.0"), "save": NOT_SAVED[1]}),
    Doors("gone", "audio", "none", "left out", reason="not installed: none"),
]  # fmt: skip


def test_the_table_and_what_is_odd() -> None:
    assert [Doors.from_json(one.as_json()) for one in CANNED] == CANNED
    assert set(summary.COLUMNS) == set(STATUSES)
    assert summary.counts(CANNED)["save"] == {"refused": 2} and summary.worst(CANNED, "values") == 2e-7
    (door, shape, group), *others = summary.odd(CANNED, ("refused",))
    assert (door, [name for name, _ in group], others) == ("save", ["mlp", "gru"], []) and "got a model with x" in shape
    text = summary.text(CANNED)
    assert "3 networks: 2 through, 1 left out" in text and "2 UnsupportedProblem" in text
    assert "values, 1 networks: wrong" in text and "gru:  an error of 1.0" in text
    table = summary.table(CANNED)
    assert (
        "| values | 2 | 1 | - | 1 | - | 2.0e-07 |" in table
        and "| save | 2 | - | 2 `UnsupportedProblem` | - | - | - |" in table
    )
    assert "- gru, values (wrong): an error of 1.0" in table and summary.table(CANNED[2:]) == ""
    record = {"networks": {one.name: one.as_json() for one in CANNED}}
    assert page.through_doors(record).endswith(table) and page.through_doors({}) == ""


def test_the_command_goes_on_where_it_was_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = tmp_path / "doors.json"
    results.write(stored, {"networks": {"nn_transformer_encoder": CANNED[0].as_json()}})
    asked: list[tuple[str, tuple[str, ...]]] = []

    def go(entry: Entry, doors: Sequence[str], limit: float) -> Doors:
        asked.append((entry.name, tuple(doors)))
        return Doors(entry.name, entry.domain, entry.package, "through", by_door={d: Outcome("ok") for d in doors})

    monkeypatch.setattr(alone, "go_alone", go)
    command_line.main(["doors", "nn_transformer_*", "--resume", "--out", str(stored)])
    assert asked == [("nn_transformer_decoder", tuple(DOORS))]
    command_line.main(["doors", "nn_transformer_encoder", "--door", "NaN", "--out", str(stored)])
    assert asked[-1] == ("nn_transformer_encoder", ("NaN",))
    assert set(results.read(stored)["networks"]["nn_transformer_encoder"]["by_door"]) == {"values", "save", "NaN"}
    assert "2 networks: 2 through" in capsys.readouterr().out


def test_copies_begin_where_the_example_did() -> None:
    class Sum(nn.Module):
        total: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.zeros(1, 3))

        def forward(self, x: Tensor) -> Tensor:
            self.total = self.total + x
            return self.total * 2

    subject = Subject(Sum().eval(), (torch.randn(1, 3),))
    assert type(subject.fast).__name__ == "StatefulModel" and subject.steady
    before = copy.deepcopy(subject.model.total)
    for door in ("values", "again", "run and bind", "copy", "save", "without torch", "second"):
        assert outcome(lambda door=door: DOORS[door](subject)).status == "ok", door
    assert torch.equal(subject.model.total, before)
