"""The protocols of persistent kernels in every order of their steps; every variant with a part left out is found."""

from __future__ import annotations

import itertools

import pytest

from tests.gpu.protocols import (
    chain,
    chain_cluster,
    cluster,
    exchange,
    last_arriver,
    mailbox,
    persistent,
    pollers,
    rounded,
    weights,
)
from tests.gpu.protocols.explore import Process, explore


@pytest.mark.parametrize("abort_after", [None, 0, 1, 2])
def test_mailbox(abort_after: int | None) -> None:
    found = explore(*mailbox.model(abort_after=abort_after))
    assert found.wrong == "" and found.states > 5, found


@pytest.mark.parametrize("variant", mailbox.VARIANTS[1:])
def test_mailbox_with_a_part_left_out(variant: str) -> None:
    found = explore(*mailbox.model(variant))
    assert found.wrong and found.trace, f"{variant}: nothing wrong in {found.states} states"


def test_messages_that_the_host_rounds() -> None:
    found = explore(*rounded.model())
    assert found.wrong == "" and found.states > 30, found


@pytest.mark.parametrize("variant", rounded.VARIANTS[1:])
def test_messages_that_the_host_rounds_with_a_part_left_out(variant: str) -> None:
    """The answer is another, or NaN where it is not to be; nobody waits for ever."""
    found = explore(*rounded.model(variant))
    assert "the host takes" in found.wrong and found.trace, f"{variant}: {found.states} states, {found.wrong}"


@pytest.mark.parametrize("programs", [2, 3])
def test_exchange(programs: int) -> None:
    found = explore(*exchange.model(programs))
    assert found.wrong == "" and found.states > 100, found


@pytest.mark.parametrize("variant", exchange.VARIANTS[1:])
def test_exchange_with_a_part_left_out(variant: str) -> None:
    found = explore(*exchange.model(2, variant))
    assert found.wrong and found.trace, f"{variant}: nothing wrong in {found.states} states"


@pytest.mark.parametrize(("tiles", "parts", "threads"), [(1, 2, 2), (1, 3, 1), (2, 2, 1), (1, 4, 1)])
def test_the_last_to_arrive_adds(tiles: int, parts: int, threads: int) -> None:
    found = explore(*last_arriver.model(tiles, parts, threads))
    assert found.wrong == "" and found.states > 100, found


@pytest.mark.parametrize("variant", last_arriver.VARIANTS[1:])
def test_the_last_to_arrive_with_a_part_left_out(variant: str) -> None:
    wrong = [explore(*last_arriver.model(*size, variant)) for size in ((1, 2, 2), (2, 2, 1))]
    assert any(found.wrong and found.trace for found in wrong), f"{variant}: {[f.states for f in wrong]} states"
    assert not any(
        "all wait" in found.wrong for found in wrong
    )  # nobody waits for anybody: an answer is wrong or missing


@pytest.mark.parametrize(("blocks", "gives_up"), [(2, False), (3, False), (2, True)])
def test_a_cluster(blocks: int, gives_up: bool) -> None:
    found = explore(*cluster.model(blocks, "", gives_up))
    assert found.wrong == "" and found.states > 100, found


@pytest.mark.parametrize("blocks", [2, 3])
def test_a_cluster_whose_blocks_stop_where_a_word_does_not_come(blocks: int) -> None:
    found = explore(*cluster.model(blocks, stops=True))
    assert found.wrong == "" and found.states > 100, found


@pytest.mark.parametrize("variant", cluster.VARIANTS[1:])
def test_a_cluster_with_a_part_left_out(variant: str) -> None:
    ways = ((False, False), (True, False), (False, True))
    wrong = [explore(*cluster.model(2, variant, gives_up, stops)) for gives_up, stops in ways]
    assert any(found.wrong and found.trace for found in wrong), (
        f"{variant}: nothing wrong in {[f.states for f in wrong]}"
    )


@pytest.mark.parametrize(("blocks", "answering"), [(2, (0,)), (2, (1,)), (2, (0, 1)), (3, (0,)), (3, (0, 1, 2))])
def test_a_chain_in_a_cluster(blocks: int, answering: tuple[int, ...]) -> None:
    found = explore(*chain_cluster.model(blocks, "", answering))
    assert found.wrong == "" and found.states > 50, found


@pytest.mark.parametrize("variant", chain_cluster.VARIANTS[1:])
def test_a_chain_in_a_cluster_with_a_part_left_out(variant: str) -> None:
    wrong = [explore(*chain_cluster.model(blocks, variant)) for blocks in (2, 3)]
    assert any(found.wrong and found.trace for found in wrong), f"{variant}: {[f.states for f in wrong]} states"


@pytest.mark.parametrize("messages", list(itertools.product(("step", "save", "load"), repeat=4))[::5], ids="-".join)
def test_persistent_kernel(messages: tuple[str, ...]) -> None:
    found = explore(*persistent.model(2, messages))
    assert found.wrong == "" and found.states > 50, found


def test_persistent_kernel_of_three_blocks() -> None:
    found = explore(*persistent.model(3, ("step", "load", "step")))
    assert found.wrong == "" and found.states > 500, found


@pytest.mark.parametrize("variant", persistent.VARIANTS[1:])
def test_persistent_kernel_with_a_part_left_out(variant: str) -> None:
    wrong = [explore(*persistent.model(2, m, variant)) for m in (("load", "save", "load", "save"), ("step",) * 4)]
    assert any(found.wrong and found.trace for found in wrong), (
        f"{variant}: nothing wrong in {[f.states for f in wrong]}"
    )


@pytest.mark.parametrize("hurries", [False, True])
@pytest.mark.parametrize(
    "messages", [("step",) * 3, ("load", "save", "load", "save"), ("step", "load", "step")], ids="-".join
)
def test_a_mailbox_that_every_block_reads(messages: tuple[str, ...], hurries: bool) -> None:
    found = explore(*persistent.model(2, messages, "", True, hurries))
    assert found.wrong == "" and found.states > 50, found


@pytest.mark.parametrize("variant", persistent.MAPPED_VARIANTS[1:])
def test_a_mailbox_that_every_block_reads_with_a_part_left_out(variant: str) -> None:
    ways = [("load", "save", "load", "save"), ("step",) * 4]
    wrong = [explore(*persistent.model(2, m, variant, True, hurries)) for m in ways for hurries in (False, True)]
    assert any(found.wrong and found.trace for found in wrong), (
        f"{variant}: nothing wrong in {[f.states for f in wrong]}"
    )


@pytest.mark.parametrize(("abort_after", "waits"), [(0, True), (2, True), (3, True), (1, False), (2, False)])
def test_warps_that_poll(abort_after: int, waits: bool) -> None:
    """The end is asked for when nothing is under way, or beside a message."""
    found = explore(*pollers.model("", abort_after, waits))
    assert found.wrong == "" and found.states > 100, found


@pytest.mark.parametrize("variant", pollers.VARIANTS[1:])
def test_warps_that_poll_with_a_part_left_out(variant: str) -> None:
    wrong = [explore(*pollers.model(variant, 2, waits)) for waits in (True, False)]
    assert any(found.wrong and found.trace for found in wrong), (
        f"{variant}: nothing wrong in {[f.states for f in wrong]}"
    )


@pytest.mark.parametrize(("swaps", "messages"), [(1, 3), (2, 3), (3, 2)])
def test_other_weights(swaps: int, messages: int) -> None:
    found = explore(*weights.model("", swaps, messages))
    assert found.wrong == "" and found.states > 1000, found


@pytest.mark.parametrize("variant", weights.VARIANTS[1:])
def test_other_weights_with_a_part_left_out(variant: str) -> None:
    found = explore(*weights.model(variant))
    assert found.wrong and found.trace, f"{variant}: nothing wrong in {found.states} states"


@pytest.mark.parametrize(("swaps", "messages"), [(1, 3), (2, 3)])
def test_other_weights_in_triton(swaps: int, messages: int) -> None:
    found = explore(*weights.model("", swaps, messages, triton=True))
    assert found.wrong == "" and found.states > 1000, found


@pytest.mark.parametrize("variant", weights.TRITON_VARIANTS[1:])
def test_other_weights_in_triton_with_a_part_left_out(variant: str) -> None:
    found = explore(*weights.model(variant, triton=True))
    assert found.wrong and found.trace, f"{variant}: nothing wrong in {found.states} states"


@pytest.mark.parametrize(("swaps", "messages", "answering"), [(2, 3, 2), (3, 2, 2), (2, 3, 1)])
def test_other_weights_of_a_chain(swaps: int, messages: int, answering: int) -> None:
    found = explore(*chain.model("", swaps, messages, answering))
    assert found.wrong == "" and found.states > 1000, found


@pytest.mark.parametrize("variant", chain.VARIANTS[1:])
def test_other_weights_of_a_chain_with_a_part_left_out(variant: str) -> None:
    wrong = [explore(*chain.model(variant, *sizes)) for sizes in ((2, 3, 2), (3, 2, 2), (2, 3, 1))]
    assert any(found.wrong and found.trace for found in wrong), (
        f"{variant}: nothing wrong in {[f.states for f in wrong]}"
    )


def test_the_search_sees_stores_in_any_order() -> None:
    """Two words of one process: another may see the second without the first; never so with one word."""

    def writer(local: tuple[int], read: object) -> list[object] | None:
        return [((1,), (("a", 1), ("b", 1), ("b", 2)))] if local == (0,) else None

    seen: set[tuple[int, int]] = set()

    def reader(local: tuple[int], read: object) -> list[object] | None:
        if local == (2,):
            return None
        seen.add((read("a"), read("b")))  # type: ignore[operator]
        return [((local[0] + 1,), ())]

    found = explore([Process("w", (0,), writer), Process("r", (0,), reader)], {"a": 0, "b": 0})  # type: ignore[arg-type]
    assert found.wrong == "" and seen == {(a, b) for a in (0, 1) for b in (0, 1, 2)}
