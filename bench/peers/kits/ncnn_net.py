"""ncnn: pnnx converts, fp32 storage and arithmetic, one thread. For networks without recurrence or attention."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import numpy as np

from bench.peers.base import LINEAR, MLPS, SPARSE, Job, LeftOut, Peer, Runner

PACKAGES = ("ncnn",)
TOOLS = ("pnnx",)
REVISION = 1
PEERS = (Peer("ncnn_fp32", "ncnn fp32", "ncnn_net", "fp32", (*MLPS, "tcn", "cnn_kws", *LINEAR, *SPARSE)),)


def convert(job: Job, variant: str) -> None:
    import pnnx

    from bench.peers.decomposed import example
    from bench.peers.models import BY_NAME

    here = os.getcwd()
    os.chdir(job.folder)  # pnnx leaves its intermediate files where it stands
    job.file("ncnn_net.ncnn.param").unlink(missing_ok=True)
    try:
        with contextlib.suppress(SyntaxError):  # of the Python file that pnnx writes beside the network, and imports
            pnnx.export(BY_NAME[job.model].module(), "ncnn_net.pt", example(job.model, whole=True), fp16=False)
    finally:
        os.chdir(here)
    if not job.file("ncnn_net.ncnn.param").exists():
        raise LeftOut("pnnx wrote no ncnn network")


def load(job: Job, variant: str) -> Runner:
    import ncnn

    data = job.data()
    net = ncnn.Net()
    net.opt.num_threads = 1
    for setting in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, setting, False)
    net.load_param(str(job.file("ncnn_net.ncnn.param")))
    net.load_model(str(job.file("ncnn_net.ncnn.bin")))
    # ncnn has no batch axis: a row is a vector, several rows a matrix
    shape = data.x.shape[1:]
    buffer = np.zeros(shape[1:] if shape[0] == 1 else shape, np.float32)
    given = ncnn.Mat(buffer)
    name_in, name_out = net.input_names()[0], net.output_names()[0]

    def call() -> Any:
        extractor = net.create_extractor()
        extractor.input(name_in, given)
        return extractor.extract(name_out)

    def step(x: np.ndarray) -> tuple[np.ndarray, ...]:
        np.copyto(buffer, x.reshape(buffer.shape))
        return (np.array(call()[1]),)

    return Runner(step, call, "extractor per call")
