"""Nsight Systems: when kernels ran. `nsys profile` around the loop, then its kernel summary as CSV."""

from __future__ import annotations

import csv
import shutil

from rtaccel.cli._profile.job import Job, no_cuda, output_of
from rtaccel.cli._profile.kernels import KernelTime, ordered
from rtaccel.core.errors import FormatError

REMEDY = "Install Nsight Systems (it comes with the CUDA toolkit) and put nsys on the PATH."

TRACE = (
    "--trace=cuda,nvtx", "--capture-range=cudaProfilerApi", "--capture-range-end=stop", "--cuda-graph-trace=node",
    "--sample=none", "--cpuctxsw=none", "--force-overwrite=true",
)  # fmt: skip

SUMMARY = ("--report", "cuda_gpu_kern_sum", "--format", "csv", "--force-export=true")


def unavailable() -> str | None:
    if shutil.which("nsys") is None:
        return "nsys is not on the PATH"
    return no_cuda("nsys")


def run(job: Job) -> list[KernelTime]:
    report = job.folder / "calls"
    output_of(["nsys", "profile", *TRACE, "-o", str(report), *job.loop], "nsys profile")
    return parse(output_of(["nsys", "stats", *SUMMARY, f"{report}.nsys-rep"], "nsys stats"))


def parse(text: str) -> list[KernelTime]:
    """The CSV of the report cuda_gpu_kern_sum (Nsight Systems 2022.3 and later), with or without lines before it.

    Raises FormatError where there is no such table.
    """
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if "Total Time (ns)" in line and "Instances" in line), None)
    if start is None:
        raise FormatError(
            "nsys", (text.strip()[:200] or "nothing"), "the table cuda_gpu_kern_sum as CSV", "Did any kernel run?"
        )
    found = []
    for row in csv.DictReader(lines[start:]):
        if not row.get("Name") or not row.get("Instances"):
            continue  # notices behind the table
        found.append(
            KernelTime(
                row["Name"], int(row["Instances"]), _us(row["Total Time (ns)"]), _us(row["Min (ns)"]), _us(row["Max (ns)"]),
                {"median us": _us(row["Med (ns)"])},
            )
        )  # fmt: skip
    return ordered(found)


def _us(ns: str) -> float:
    return float(ns) / 1e3
