"""Streams in a graph, over CPU tensors: all that holds of streams on the CPU, and both side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import rtaccel as rt
from tests.runtime.streams.test_causal_attention import (  # noqa: F401
    test_a_nan_leaves_with_its_time_step,
    test_a_window_needs_no_context_and_never_ends,
    test_behind_its_context_attention_sees_the_newest_time_steps,
    test_every_step_equals_the_window_so_far,
    test_indices,
    test_the_encoder_of_torch,
)
from tests.runtime.streams.test_chunks import (  # noqa: F401
    test_random_fronts,
    test_whole_numbers_and_a_file,
)
from tests.runtime.streams.test_delays import (  # noqa: F401
    test_random_networks,
    test_several_rows_a_step,
    test_whole_numbers,
)
from tests.runtime.streams.test_samples import (  # noqa: F401
    test_a_chunk_that_is_not_finite_is_forgotten,
    test_frames_of_nothing_but_samples,
    test_frames_that_overlap,
    test_random_stacks,
    test_samples_to_samples,
    test_streams_apart_and_kept,
    test_what_begins_late,
)
from tests.runtime.streams.test_some_streams import (  # noqa: F401
    test_each_stream_as_if_alone,
    test_nan_in_one_stream,
    test_wrong_lists_move_nothing,
)
from tests.runtime.streams.test_stream import (  # noqa: F401
    test_a_nan_stays_in_its_stream,
    test_bound_and_reset_one_stream,
    test_every_moment_equals_the_window_so_far,
    test_int8,
    test_state_dict_carries_the_past,
    test_streamed_int8_has_the_bits_of_the_window,
)
from tests.runtime.streams.test_stream_forms import (  # noqa: F401
    test_a_residual_of_the_input_that_is_cut,
    test_another_number_of_streams,
    test_features_of_a_time_step_are_picked,
    test_one_number_that_happens_to_be_zero_verifies,
)
from tests.runtime.streams.test_stream_front import (  # noqa: F401
    test_int8_is_calibrated_on_windows_of_the_raw_input,
    test_some_streams_and_a_reset,
    test_steps_are_the_window_of_front_and_model,
)
from tests.runtime.streams.test_whole_number_streams import (  # noqa: F401
    test_running_sums_of_float32_lose_nothing,
    test_some_of_the_streams_and_their_past,
    test_steps_are_the_windows_to_the_bit,
)
from tests.runtime.streams.test_written_loops import test_a_nan_stays_in_its_stream as test_a_nan_in_a_loop  # noqa: F401
from tests.runtime.streams.test_written_loops import (  # noqa: F401
    test_random_loops,
    test_some_streams_make_a_step,
)
from tests.runtime.streams.test_written_loops import test_whole_numbers as test_whole_numbers_in_a_loop  # noqa: F401
from tests.support.fake_device import FakeDevice, no_state_is_written, streams_in_graphs

pytestmark = pytest.mark.turns(6)


@pytest.fixture(autouse=True)
def in_graphs() -> Iterator[FakeDevice]:
    with streams_in_graphs("portable") as device:
        yield device


class Mixed(nn.Module):
    """Convolutions with residuals, a recurrent layer and causal attention's like: what keeps each kind of state."""

    def __init__(self, recurrent: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(6, 8, 3), nn.Conv1d(8, 8, 2, dilation=3)
        self.memory = nn.GRU(8, 8, batch_first=True) if recurrent else None
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.first(torch.nn.functional.pad(x.transpose(1, 2), (2, 0))))
        y = torch.relu(self.second(torch.nn.functional.pad(y, (3, 0))) + y).transpose(1, 2)
        return self.head(y if self.memory is None else self.memory(y)[0])


@pytest.mark.parametrize("scheme", ["float32", "w8a8", "w4a8"])
@pytest.mark.parametrize("recurrent", [False, True])
def test_beside_the_cpu(recurrent: bool, scheme: str, in_graphs: FakeDevice) -> None:
    """Resets, streams that stand still, NaN and infinities: the same results, and NaN in the same steps. All streams at once are
    one replay."""
    seed = int(torch.randint(1 << 30, ()))
    print(f"seed {seed}")
    torch.manual_seed(seed)
    model, windows = Mixed(recurrent).eval(), [torch.randn(8, 30, 6)]
    calibration = None if scheme == "float32" else windows
    live = rt.stream(model, torch.randn(5, 6), scheme, calibration)
    in_graphs_replays = in_graphs.replays
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rtaccel.runtime.stream._mode", lambda device, mode, step: None)
        patch.setattr("rtaccel.runtime.stream.Options", rt.runtime.options.Options)
        plain = rt.stream(model, torch.randn(5, 6), scheme, calibration)
    whole = 0
    for t in range(60):
        some = torch.randperm(5)[: int(torch.randint(1, 5, ()))] if t % 3 == 2 else None
        x = torch.randn(5 if some is None else len(some), 6)
        if t % 11 == 4:
            x[0, t % 6] = float("nan") if t % 2 else float("inf")
        got, want = live.step(x, streams=some), plain.step(x, streams=some)
        whole += some is None
        assert torch.equal(got.isnan(), want.isnan()), t
        assert (
            torch.allclose(got, want, atol=1e-5, equal_nan=True)
            if scheme == "float32"
            else torch.equal(got.nan_to_num(), want.nan_to_num())
        ), t
        if t % 17 == 9:
            for each in (live, plain):
                each.reset([t % 5])
    assert in_graphs.replays - in_graphs_replays == whole


def test_its_past_goes_on_on_the_cpu(tmp_path: Path) -> None:
    """A file with states, and the bytes of one stream of recurrent layers."""
    torch.manual_seed(3)
    model = nn.GRU(6, 9, 2, batch_first=True).eval()
    live = rt.stream(model, torch.randn(3, 6))
    for _ in range(5):
        live.step(torch.randn(3, 6))
    loaded = rt.load(rt.save(live, tmp_path / "live.rta", states=True))
    x = torch.randn(3, 6)
    moved = live.save_stream(1)
    want = live.step(x)
    assert torch.allclose(torch.from_numpy(loaded.step(x.numpy())), want, atol=1e-6)
    live.load_stream(2, moved)
    assert torch.allclose(live.step(x[1:2], streams=[2]), want[1:2], atol=1e-6)


def test_a_graph_that_lost_a_kernel_is_found(in_graphs: FakeDevice) -> None:
    in_graphs.loses_kernels = True
    with pytest.raises(rt.UnsupportedProblem, match="does not write output 0"):
        rt.stream(nn.GRU(6, 9, batch_first=True).eval(), torch.randn(3, 6))


def test_a_state_that_a_replay_does_not_write_is_found(in_graphs: FakeDevice) -> None:
    with no_state_is_written(in_graphs), pytest.raises(rt.UnsupportedProblem, match="does not write state 0"):
        rt.stream(nn.GRU(6, 9, batch_first=True).eval(), torch.randn(3, 6))


def test_other_weights_and_streams_go_on(in_graphs: FakeDevice) -> None:
    """Loaded, which captures anew, and swapped under the graph, which does not."""
    torch.manual_seed(4)
    model, other = (nn.GRU(6, 9, batch_first=True).eval() for _ in range(2))
    live, fresh = rt.stream(model, torch.randn(3, 6)), rt.stream(other, torch.randn(3, 6))
    x = torch.randn(3, 6)
    first = live.step(x)
    past = live.state_dict()["_extra_state"]
    captures = in_graphs.captures
    live.swap(fresh)
    assert in_graphs.captures == captures
    assert torch.equal(live.state_dict()["_extra_state"], past)
    fresh.load_state_dict({"_extra_state": past}, strict=False)
    assert torch.equal(live.step(x), fresh.step(x))
    live.rollback()
    live.reset()
    assert torch.equal(live.step(x), first)
    weights = {k: v for k, v in fresh.state_dict().items() if k != "_extra_state"}
    captures = in_graphs.captures
    live.load_state_dict(weights, strict=False)
    assert in_graphs.captures == captures + 1
    fresh.load_state_dict({"_extra_state": live.state_dict()["_extra_state"]}, strict=False)
    assert torch.equal(live.step(x), fresh.step(x))


def test_it_is_profiled_and_says_what_it_keeps() -> None:
    from rtaccel.runtime.inspection.profile import profile_stages

    live = rt.stream(Mixed(True).eval(), torch.randn(4, 6))
    x = torch.randn(4, 6)
    live.step(x)
    past = live.state_dict()["_extra_state"]
    found = profile_stages(live, (x,), calls=3)
    assert len(found.stages) == len(live.explain_lines(measure=False)) > 3
    assert torch.equal(live.state_dict()["_extra_state"], past)
    assert live.state_bytes == 4 * 4 * (3 * 6 + 4 * 8 + 8)  # rings, with a row for the newest
    assert "one CUDA graph for a time step of 4 streams" in live.explain()


def test_what_it_is_not_for() -> None:
    live = rt.stream(nn.GRU(6, 9, batch_first=True).eval(), torch.randn(4, 6))
    with pytest.raises(rt.UnsupportedProblem, match="one native plan on the CPU"):
        rt.StreamBatcher(live, deadline_us=1000)
    with pytest.raises(rt.ShapeError, match="expected 4, those of the example"):
        live.step(torch.randn(3, 6))


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
def test_its_kernels_are_found_ahead(scheme: str) -> None:
    """Those that a plan on a card binds, with what counts marks where int8 cannot hold a NaN."""
    pytest.importorskip("triton")
    from rtaccel.runtime.gpu.ahead import stream_kernels_of

    calibration = None if scheme == "float32" else [torch.randn(8, 30, 6)]
    found = stream_kernels_of(Mixed(True).eval(), torch.randn(5, 6), scheme, calibration, 90)
    names = " ".join(kernel.name for kernel in found.values())
    assert "conv_stream" in names and "gru_" in names
    assert ("marks_" in names) == (scheme != "float32")
