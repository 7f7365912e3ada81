"""Which chains of linear layers the kernel in CUDA C++ takes, and on how many multiprocessors."""

from __future__ import annotations

import datetime
import itertools

import pytest
import torch

from rtaccel.core.errors import UnsupportedProblem
from rtaccel.kernels._gpu import cuda_launch, cuda_nvrtc
from rtaccel.kernels._persistent.card import Card, assuming
from rtaccel.kernels.mlp import contract
from rtaccel.kernels.mlp.cuda import kernel as cuda_kernel
from rtaccel.kernels.mlp.cuda.config import (
    MAX_INPUTS,
    KernelConfig,
    cluster_of,
    config_of,
    select_config,
    triton_clocks,
)
from rtaccel.runtime.gpu.persistent_chains import CUDA, CudaChain, PersistentChain, PersistentPartition, chain_network
from rtaccel.runtime.gpu.persistent_choice import TRITON, only
from tests.gpu.cuda.test_cuda_chain import needs_triton


def test_295_kb_are_on_one_multiprocessor_of_an_h100() -> None:
    widths, acts = (256, 384, 384, 128), ("relu", "relu", "none")
    found = select_config(widths, acts, 0, Card(90))
    assert isinstance(found, KernelConfig)
    assert found.steps * found.step_bytes == sum(k * n for k, n in itertools.pairwise(widths))  # no zeros between
    assert found.shared_bytes <= 227 << 10 and sum(found.kept) * found.step_bytes >= 64 << 10
    assert found.clocks() < triton_clocks(widths, 0, 3)
    assert "227 KiB" in str(select_config((256, 512, 512, 128), acts, 0, Card(90)))
    assert "163 KiB" in str(select_config(widths, acts, 0, Card(80)))
    assert f"{MAX_INPUTS + 1}" in str(select_config((MAX_INPUTS + 1, 8, 8), acts[1:], 0, Card(90)))
    assert "groups that 32 divides, not 16" in str(select_config((64, 8, 8), acts[1:], 16, Card(90)))


@needs_triton
def test_which_kernel_a_chain_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one in CUDA C++ where it holds the network and is to be had, and Triton's with the reason."""
    reasons: list[str | None] = [None]
    monkeypatch.setattr(cuda_launch, "unavailable", lambda kernel: reasons[0])
    stage = contract.make_stage((256, 384, 384, 128), ("relu", "relu", "none"))
    with assuming(Card(90, 132)):
        taken = chain_network(stage)
        assert isinstance(taken, CudaChain) and taken.programs == 1 and taken.line().kernel == CUDA
        assert any(f"not {TRITON}, which answers later" in reason for reason in taken.line().reasons)
        with only(TRITON):
            assert isinstance(chain_network(stage), PersistentPartition)
        reasons[0] = "libnvrtc cannot be loaded"
        instead = chain_network(stage)
        assert isinstance(instead, PersistentPartition)
        assert any("libnvrtc cannot be loaded" in reason for reason in instead.line().reasons)
        with only(CUDA), pytest.raises(UnsupportedProblem, match="libnvrtc cannot be loaded"):
            chain_network(stage)
        reasons[0] = None
        groups_of_16 = contract.make_stage((64, 32, 8), ("relu", "none"), group_size=16)
        small = chain_network(groups_of_16)
        assert type(small) is PersistentChain and any("groups that 32 divides" in r for r in small.line().reasons)
        with pytest.raises(UnsupportedProblem, match=f"{CUDA} keeps all weights"):
            chain_network(contract.make_stage((1000, 2048, 2048, 1000), ("relu", "relu", "none")))
    with assuming(Card(80, 108)):
        assert isinstance(chain_network(stage), PersistentPartition)  # 163 KiB do not hold it


@needs_triton
def test_what_one_multiprocessor_does_not_hold_is_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the device has clusters and room for one; else Triton's kernel, through L2, with the reason."""
    room = [True]
    monkeypatch.setattr(cuda_launch, "unavailable", lambda kernel: None)
    monkeypatch.setattr(cuda_launch, "has_room", lambda kernel: room[0] or not kernel.cluster)
    stage = contract.make_stage((256, 512, 512, 128), ("relu", "relu", "none"))
    with assuming(Card(90, 132)):
        taken = chain_network(stage)
        assert isinstance(taken, CudaChain) and 2 <= taken.programs == taken.config.parts <= 8
        assert "a cluster that shares its memory" in taken.line().reasons[0]
        other = triton_clocks(taken.config.widths, 0, 4)
        assert taken.config.clocks() < 0.9 * other and any(f"{other:,.0f}" in reason for reason in taken.line().reasons)
        alone = chain_network(contract.make_stage((256, 384, 384, 128), ("relu", "relu", "none")))
        assert isinstance(alone, CudaChain) and alone.programs == 1
        large = chain_network(contract.make_stage((1000, 1024, 1024, 1000), ("relu", "relu", "none")))
        assert isinstance(large, CudaChain) and large.programs > 8  # which no other kernel holds
        room[0] = False
        instead = chain_network(stage)
        assert isinstance(instead, PersistentPartition)
        assert any("for which this device has no room" in reason for reason in instead.line().reasons)
        with pytest.raises(UnsupportedProblem, match="no room"):
            chain_network(contract.make_stage((1000, 1024, 1024, 1000), ("relu", "relu", "none")))
    with assuming(Card(90, 132, has_clusters=False)):
        assert isinstance(chain_network(stage), PersistentPartition)


@needs_triton
@pytest.mark.parametrize(("widths", "forms"), [((256, 512, 512, 128), 2), ((1000, 1024, 1024, 1000), 1)])
def test_a_cluster_is_built_ahead_beside_what_stands_in_for_it(widths: tuple[int, ...], forms: int) -> None:
    from rtaccel.kernels._gpu.triton_launch import recording

    with assuming(Card(90, 132)), recording() as found:
        chain_network(contract.make_stage(widths, ("relu", "relu", "none"))).prepared("cpu")
    assert len(found) == forms
    (kernel,) = [kernel for kernel in found.values() if isinstance(kernel, cuda_nvrtc.CudaKernel)]
    assert kernel.cluster > 1 and f"_P{kernel.cluster}_" in kernel.name


@needs_triton
def test_every_layout_of_a_stage_is_its_own() -> None:
    """Random networks: all weights have a place, no thread has more than its registers, and shared memory holds the rest."""
    make = torch.Generator().manual_seed(datetime.date.today().toordinal())
    for _ in range(30):
        count = int(torch.randint(2, 6, (1,), generator=make))
        widths = tuple(int(torch.randint(1, 400, (1,), generator=make)) for _ in range(count + 1))
        for group in (0, 32, 128):
            stage = contract.make_stage(widths, ("relu",) * (count - 1) + ("none",), group_size=group)
            for found in (config_of(stage.attrs, Card(90)), cluster_of(stage.attrs, Card(90))):
                if isinstance(found, str):
                    continue
                operands = cuda_kernel.Operands.of(stage, found)
                assert operands.words.numel() == 4 * found.parts * found.steps * found.threads
                assert operands.numbers.numel() == found.parts * found.params
                assert 4 * max(found.kept) <= 255 and sum(found.kept) <= found.most_kept
                assert found.shared_bytes <= 227 << 10
                if not group:
                    weights = sum(k * n for k, n in itertools.pairwise(widths))
                    assert int((operands.words.view(torch.int8) != 0).sum()) <= weights <= 4 * operands.words.numel()
