"""The comparison with peers: statistics, classes and tables on made-up samples; networks; one round in this process."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench.peers import data, decomposed, report, rounds, run, worker
from bench.peers.base import MODELS, SPARSE, Data, join, split
from bench.peers.models import BY_NAME, Model, flatten
from bench.peers.registry import kit, missing, missing_tools, peers
from bench.peers.results import Row, duels, summarise

RUNS_EVERYWHERE = [name for name in MODELS if name != "ad01"]
SMALL = ("jet", "gru_kws")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the comparison; torch's threads on nets this small only get in each other's way."""
    grad, threads = torch.is_grad_enabled(), torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_grad_enabled(grad)
    torch.set_num_threads(threads)


def row(name: str, best: float, error: float, ours: bool = False) -> Row:
    return Row(name, name, ours, error, best * 1.1, best * 2, best * 3, best, 100)


def test_summary_of_samples() -> None:
    fast, slow = [1000] * 99 + [9000], [3000] * 100
    found = summarise("a", "A", False, {"error": 0.5}, [slow, fast])
    assert found.best_us == 1.0 and found.calls == 200
    assert found.p50_us == 3.0 and found.p99_us == 3.0
    assert found.p999_us is None  # of 200 samples none need lie beyond it
    assert found.best_p99_us == 9.0 and found.cold_us is None and found.run_us is None
    assert summarise("a", "A", False, {"error": 0.5}, [slow * 9, fast]).p999_us == 9.0
    more = summarise("a", "A", True, {"error": 0.5}, [fast], [[7000], [5000]], {"run": [[2000], [2500]]})
    assert more.cold_us == 5.0 and more.run_us == 2.0 and more.call_us is None
    assert more.as_json()["cold_us"] == 5.0 and "call_us" not in more.as_json()


def test_a_runner_left_out_says_why_and_is_never_best() -> None:
    out = summarise("a", "A", False, {"left_out": "no such thing"}, [])
    assert out.left_out == "no such thing" and out.best_us is None
    assert duels([out])[0].peer is None and duels([out])[0].ratio is None
    text = report.table("jet", "about", [out, row("b", 2.0, 0.0)])
    assert "Left out: A (no such thing)." in text and text.count("| b |") == 1


def test_classes_and_ratio() -> None:
    rows = [
        row("exact", 10, 1e-6), row("eight", 4, 0.02), row("four", 3, 0.1), row("wrong", 0.1, 0.9),
        row("ours8", 2, 0.01, True), row("ours4", 6, 0.05, True),
    ]  # fmt: skip
    exact, eight, four = duels(rows)
    assert exact.peer is not None and exact.peer.peer == "exact" and exact.ours is None and exact.ratio is None
    assert eight.peer is not None and eight.peer.peer == "eight" and eight.ratio == 2.0
    assert four.peer is not None and four.peer.peer == "four" and four.ours is not None and four.ours.peer == "ours8"
    assert four.ratio == 1.5


def test_cold_duels_are_of_those_that_were_timed_cold() -> None:
    warm_only = row("a", 1, 1e-6)
    rows = [warm_only, replace(row("b", 4, 1e-6), cold_us=30.0), replace(row("ours", 2, 1e-6, True), cold_us=10.0)]
    exact = duels(rows, "cold_us")[0]
    assert exact.peer is not None and exact.peer.peer == "b" and exact.ratio == 3.0
    text = report.cold({"jet": rows, "lstm_c": [warm_only]})
    assert "| jet | b 30 / ours 10 / **3.00x** |" in text and "lstm_c" not in text


def test_tables_go_between_the_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    found = {"jet": [row("peer", 4, 1e-6), replace(row("rtaccel float32", 2, 1e-6, True), run_us=2.6)]}
    report.put_between(page, report.summary(found) + report.table("jet", "a net", found["jet"]))
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| exact: error at most 0.001 % |" in text and "the class above: jet." in text
    assert text.count("| jet | peer | 4 | float32 | 1.0e-06 | 2 | 2.6 | - | **2.00x** |") == 1
    assert [r for r in text.splitlines() if r.startswith("| **rtaccel float32**")]
    page.write_text("no markers")
    with pytest.raises(ValueError, match="has no"):
        report.put_between(page, "x")
    assert page.read_text() == "no markers"


def test_a_record_names_the_command_without_this_machines_files() -> None:
    asked = [
        "--cold",
        "--out",
        "/tmp/a.json",
        "--models",
        "jet",
        "--python",
        "a=/b",
        "--python",
        "c=/d",
        "--rounds",
        "3",
    ]
    assert run.command(asked) == "python -m bench.peers --cold --models jet --rounds 3"


def test_chart(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from bench.peers.chart import draw

    draw({"jet": [row("peer", 4, 1e-6), row("ours", 2, 1e-6, True)]}, tmp_path / "chart.svg")
    assert "2.00x: 4 us peer, 2 us here" in (tmp_path / "chart.svg").read_text()


MACS = {
    "mlp_ad": 0.264e6, "policy": 0.19e6, "jet": 4260, "lstm_a": 57.4e3, "lstm_b": 361e3, "lstm_c": 7.6e6,
    "gru_kws": 77.6e3, "tcn": 2.45e6, "tcn_step": 51e3, "cnn_kws": 2.66e6, "encoder": 344e6,
}  # fmt: skip


def counted_macs(model: Model, module: nn.Module) -> int:
    """Multiplications, counted by hooks: weights of a layer times the positions it is used at."""
    total = 0

    def hook(layer: nn.Module, _: object, result: object) -> None:
        nonlocal total
        if isinstance(layer, (nn.LSTM, nn.GRU)):
            total += sum(w.numel() for n, w in layer.named_parameters() if n.startswith("weight"))
            return
        assert isinstance(result, torch.Tensor)
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        total += result.numel() // weight.shape[0] * weight.numel()

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.LSTM, nn.GRU)
    hooks = [m.register_forward_hook(hook) for m in module.modules() if isinstance(m, kinds)]
    states = tuple(torch.zeros(s) for s in model.states)
    module(*model.arguments(torch.randn(model.x), states))
    for handle in hooks:
        handle.remove()
    return total


def test_sparse_layers_have_the_zeros_they_are_named_for() -> None:
    kept = {name: BY_NAME[name].module().state_dict()["weight"] != 0 for name in SPARSE}
    assert [round(float(k.float().mean()), 3) for k in kept.values()] == [0.1, 0.05, 0.2, 0.5]
    blocks = kept["blocks_80"].view(64, 16, 64, 16).float().mean((1, 3))
    assert ((blocks == 0) | (blocks == 1)).all()
    assert (kept["sparse_24"].view(1024, 256, 4).sum(2) == 2).all()


@pytest.mark.parametrize("name", [n for n in RUNS_EVERYWHERE if n not in ("encoder", "lin_1x4096")])
def test_networks_have_the_size_they_are_named_for(name: str) -> None:
    model = BY_NAME[name]
    module = model.module()
    assert counted_macs(model, module) == model.macs
    if name in MACS:
        assert model.macs == pytest.approx(MACS[name], rel=0.01)
    again = model.module().state_dict()
    assert all(torch.equal(again[key], value) for key, value in module.state_dict().items())


def test_encoder_size() -> None:
    model = BY_NAME["encoder"]
    weights = sum(p.numel() for n, p in model.module().named_parameters() if p.dim() == 2)
    assert weights == 6 * 12 * 384**2
    assert model.macs == 32 * weights + 6 * 2 * 32 * 32 * 384  # and the two products of attention


@pytest.mark.parametrize("name", ["lstm_a", "lstm_b", "gru_kws", "tcn", "tcn_step", "policy"])
def test_spelled_out_form_is_the_same_network(name: str) -> None:
    model = BY_NAME[name]
    x, *states = decomposed.example(name, whole=True)
    want = flatten(model.module()(*model.arguments(x, tuple(states))))
    layered = decomposed.decomposed_states(name)
    given = [torch.from_numpy(a) for a in split([s.numpy() for s in states])] if layered else states
    got = [t.numpy() for t in flatten(decomposed.decomposed(name)(x, *given))]
    if layered:
        parts = len(given)
        y = got[0] if len(got) > parts else got[parts // layered - 1]
        got = [y, *join(got[-parts:], layered)]
    assert len(got) == len(want)
    for a, b in zip(got, want):
        np.testing.assert_allclose(a.reshape(b.shape), b.numpy(), rtol=0, atol=2e-6)


def test_tcn_step_equals_its_window() -> None:
    torch.manual_seed(5)
    window = torch.randn(1, 14, 48)
    states = tuple(torch.zeros(s) for s in BY_NAME["tcn_step"].states)
    step = BY_NAME["tcn_step"].module()
    for t in range(48):
        y, *after = step(window[:, :, t : t + 1], *states)
        states = tuple(after)
    torch.testing.assert_close(y, BY_NAME["tcn"].module()(window), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", SMALL)
def test_data_survives_the_cache_and_is_never_zero(name: str, tmp_path: Path) -> None:
    job, key = data.prepare(name, tmp_path / name)
    stored = job.data()
    assert stored.x.shape == (data.CALLS, *BY_NAME[name].x) and (stored.x != 0).all()
    assert len(stored.calibration) == 1 + len(BY_NAME[name].states)
    assert not np.array_equal(stored.calibration[0][: data.CALLS], stored.x)
    module = BY_NAME[name].module()
    made = data.make(BY_NAME[name], module)
    assert isinstance(made, Data) and np.array_equal(made.want, stored.want)
    assert job.file("data.key").read_text() == key


@pytest.mark.parametrize("name", ["torch_eager", "rt_float32", "rt_w8a8", "rt_w8a8_dynamic"])
def test_one_round_in_this_process(name: str, tmp_path: Path) -> None:
    job, _ = data.prepare("jet", tmp_path)
    runner = kit(peers()[name].kit).load(job, peers()[name].variant)
    error = worker.error_of(runner, job.data())
    assert error <= (0.03 if "w8a8" in name else 1e-6)
    for call in (runner.call, *runner.forms.values()):
        taken = worker.sample(call, 5, 1)
        assert len(taken) == 5 and min(taken) > 0
    assert set(runner.forms) == (set() if name == "torch_eager" else {"run", "call"})


@pytest.mark.parametrize("name", ["lstm_a", "gru_kws", "tcn_step"])
@pytest.mark.parametrize("row_name", ["rt_float32_stream", "rt_w8a8_stream"])
def test_a_stream_gives_what_the_steps_give(name: str, row_name: str, tmp_path: Path) -> None:
    job, _ = data.prepare(name, tmp_path)
    runner = kit("ours").load(job, peers()[row_name].variant)
    assert worker.error_of(runner, job.data()) <= (0.03 if "w8a8" in row_name else 1e-6)


@pytest.mark.usefixtures("forked_python")
def test_one_round_over_processes(tmp_path: Path) -> None:
    known = peers()
    _, key = data.prepare("jet", tmp_path)
    with (tmp_path / "log.txt").open("w") as log:
        core = sorted(os.sched_getaffinity(0))[-1]
        timing = rounds.Timing(rounds=2, round_us=200, least=3, most=20, cold_rounds=1, cold_calls=3, core=core)
        chosen = [known["torch_eager"], known["rt_float32"]]
        found = rounds.measure(chosen, "jet", tmp_path, key, {}, timing, log)
    assert [len(p.samples_ns) for p in found] == [2, 2], [p.said for p in found]
    assert all(p.said["error"] < 1e-6 and min(map(min, p.samples_ns)) > 0 for p in found)
    assert [len(p.cold_ns) for p in found] == [1, 1] and all(len(p.cold_ns[0]) == 3 for p in found)
    assert found[0].forms_ns == {} and [len(r) for r in found[1].forms_ns.values()] == [2, 2]


@pytest.mark.parametrize("name", ["ort_fp32", "litert_fp32", "numba_mlp", "scipy_csr"])
@pytest.mark.usefixtures("forked_python")
def test_exact_peers_agree_with_torch(name: str, tmp_path: Path) -> None:
    peer, model = peers()[name], "sparse_95" if name == "scipy_csr" else "jet"
    if absent := missing(peer) + missing_tools(peer):
        pytest.skip(f"not installed: {', '.join(absent)}")
    if name == "litert_fp32" and importlib.util.find_spec("jax") is None:
        pytest.skip("not installed: jax")
    _, key = data.prepare(model, tmp_path)
    with (tmp_path / "log.txt").open("w") as log:
        if hasattr(kit(peer.kit), "convert"):
            assert not rounds.convert(peer, model, tmp_path, key, sys.executable, log)["left_out"]
        process = rounds.start("time", peer, model, tmp_path, key, sys.executable, None, log)
        said = process.hear()
        process.close()
    assert "left_out" not in said and said["error"] < 1e-5, said
