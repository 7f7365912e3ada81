"""The wheel in an environment of its own, away from the checkout: what is compiled at run time finds its sources there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import textwrap
import venv
import zipfile
from pathlib import Path

import pytest

from rtaccel.kernels._gpu import cuda_nvrtc
from rtaccel.kernels.mlp.cuda import kernel as chain
from rtaccel.kernels.recurrent.cuda import kernel as recurrent
from rtaccel.kernels.recurrent.cuda import window
from rtaccel.kernels.recurrent.cuda.float32 import layer
from tests.support.wheel import ROOT

FILES = tuple(dict.fromkeys((*recurrent.FILES, *window.FILES, *layer.FILES, *chain.FILES)))

needs_nvrtc = pytest.mark.skipif(cuda_nvrtc.unavailable() is not None, reason=f"{cuda_nvrtc.unavailable()}")

KERNELS = "rtaccel/kernels/"

COMPILE = """
import json, sys
from pathlib import Path
from rtaccel.core.errors import RtaccelError
from rtaccel.kernels._gpu.cuda_nvrtc import ECHO, FOLDER, compile_cubin
from rtaccel.kernels.mlp.cuda import kernel as chain
from rtaccel.kernels._persistent.card import Card
from rtaccel.kernels._persistent.null import null_kernel
from rtaccel.kernels.recurrent.cuda import window
from rtaccel.kernels.recurrent.cuda.float32 import layer
from rtaccel.kernels.recurrent.cuda.kernel import DECLARED, declared

stacks = [declared(name, Card(90))[1] for name in DECLARED]
a_window = window.declared("gru 64-128 int8", Card(90)).kernel
a_layer = layer.declared("gru 128", Card(90)).kernel
kernels = [ECHO, *stacks, a_window, a_layer, null_kernel(), chain.declared("autoencoder int8", Card(90))[1]]
found = {"folder": str(FOLDER), "files": sorted({k.file for k in kernels}), "bytes": [], "without": {}}
hidden = sys.argv[1:]
if not hidden:
    found["bytes"] = [len(compile_cubin(k, 90).code) for k in kernels]
for name in hidden:
    (FOLDER / name).rename(FOLDER / "elsewhere")
    try:
        compile_cubin(next(k for k in kernels if name in k.includes), 90)
    except RtaccelError as error:
        found["without"][name] = str(error)
    (FOLDER / "elsewhere").rename(FOLDER / name)
print(json.dumps(found))
"""

SMALL = r"""
#include <stdio.h>
#include "small.h"
int main(void) {
  rta_model* model = rta_model_from_memory(small_model, SMALL_MODEL_BYTES, 0);
  if (!model) { fprintf(stderr, "%s", rta_error()); return 1; }
  float x[SMALL_INPUT_0_ELEMENTS], y[SMALL_OUTPUT_0_ELEMENTS];
  for (int i = 0; i < SMALL_INPUT_0_ELEMENTS; ++i) x[i] = (float)i;
  const void* in[] = {x};
  void* out[] = {y};
  if (rta_model_step(model, in, out, 1) != 0) return 2;
  for (unsigned i = 0; i < sizeof y; ++i) printf("%02x", ((const unsigned char*)y)[i]);
  rta_model_close(model);
  return 0;
}
"""

MODEL = """
import torch
def make():
    return torch.nn.Linear(64, 32).eval(), (torch.randn(1, 64),), [torch.randn(32, 64)]
"""


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A venv with the wheel in it; its dependencies are borrowed from where this test runs, without the checkout."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    site = subprocess.run(
        [python, "-I", "-c", "import sysconfig; print(sysconfig.get_path('platlib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    borrowed = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
    (Path(site) / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet"]
    done = subprocess.run([*command, "--ignore-installed", str(wheel)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def run(environment: Path, command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    """Beside the checkout, with nothing of this process's search path or caches."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "RTACCEL_", "TRITON_"))}
    clean |= {"TRITON_CACHE_DIR": str(environment / "triton"), "HOME": str(environment)}
    if cuda_nvrtc.unavailable() is None:  # cuda-pathfinder looks into the packages of a venv, and these are borrowed
        from cuda.pathfinder import load_nvidia_dynamic_lib

        clean["LD_LIBRARY_PATH"] = str(Path(load_nvidia_dynamic_lib("nvrtc").abs_path).parent)
    return subprocess.run(command, cwd=environment, env=clean, capture_output=True, text=True, check=False)


def compiled(environment: Path, *hidden: str) -> dict:
    done = run(environment, [environment / "bin" / "python", "-I", "-c", textwrap.dedent(COMPILE), *hidden])
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert Path(found["folder"]).is_relative_to(environment)
    return found


def public_headers() -> set[str]:
    found = [*(ROOT / "native").rglob("rta*.h"), *(ROOT / "kernels" / "_core").glob("rta_*.h")]
    return {
        f"rtaccel/include/{path.name}" for path in found if path.name != "rta_packed.h"
    }  # of packed libraries alone


def test_it_carries_what_nvrtc_reads_and_no_other_header(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    carried = {n for n in names if n.endswith((".h", ".def")) and not n.startswith("rtaccel/source/")}
    assert carried == {*public_headers(), *(KERNELS + name for name in FILES)}
    sources = {"rtaccel/" + str(path.relative_to(ROOT)) for path in (ROOT / "kernels").rglob("*.cu")}
    assert sources
    assert {n for n in names if n.endswith(".cu")} == sources


WITHOUT_TORCH = """
import json, sys, time
start = time.perf_counter()
import rtaccel as rt
imported_ms = 1e3 * (time.perf_counter() - start)
import numpy as np
found = []
for file in sys.argv[1:]:
    model = rt.load(file)
    rng = np.random.default_rng(0)
    x = rng.standard_normal([model.streams or 3, model.inputs[0][2][-1]]).astype(np.float32)
    y = model(x)
    out = np.full_like(y, np.nan)
    model.reset() if model.streams else None
    step = model.bind(x, out=out)
    step()
    model.reset() if model.streams else None
    assert (model.run(x, out=np.empty_like(y)) == y).all() and (out == y).all()
    assert rt.measure(step, samples=1000).n >= 1000
    model.reset() if model.streams else None
    found.append(model.step(x).tobytes().hex())
foreign = [name for name in ("torch", "safetensors") if name in sys.modules]
print(json.dumps({"results": found, "foreign": foreign, "imported_ms": imported_ms}))
"""


def test_a_model_from_a_file_needs_numpy_alone(wheel: Path, tmp_path: Path) -> None:
    """`pip install --no-deps rtaccel numpy`: nothing else is there to be imported."""
    import numpy as np
    import torch

    import rtaccel as rt

    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4)).eval()
    fast = rt.compile(model, torch.randn(3, 6), "w8a8", calibration=[torch.randn(64, 6)])
    live = rt.stream(torch.nn.GRU(5, 8, batch_first=True).eval(), torch.randn(2, 5))
    files = [rt.save(fast, tmp_path / "mlp.rta"), rt.save(live, tmp_path / "gru.rta")]
    folder = tmp_path / "bare"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet"]
    done = subprocess.run([*command, str(wheel)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    site = next((folder / "lib").glob("python*/site-packages"))
    package = Path(np.__file__).parent
    for own in (package, package.parent / "numpy.libs"):
        if own.exists():
            (site / own.name).symlink_to(own)
    done = run(folder, [python, "-I", "-c", WITHOUT_TORCH, *files])
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal([3, 6]).astype(np.float32))
    z = torch.from_numpy(np.random.default_rng(0).standard_normal([2, 5]).astype(np.float32))
    live.reset()
    assert found["results"] == [fast(x).numpy().tobytes().hex(), live.step(z).numpy().tobytes().hex()]
    assert not found["foreign"]


@pytest.mark.turns(3)
@needs_nvrtc
def test_every_cuda_source_compiles_from_there(environment: Path) -> None:
    found = compiled(environment)
    assert found["files"] == sorted(
        str(path.relative_to(found["folder"])) for path in Path(found["folder"]).rglob("*.cu")
    )
    assert len(found["bytes"]) == 11
    assert min(found["bytes"]) > 1000


@needs_nvrtc
def test_a_header_that_is_not_there_is_missed(environment: Path) -> None:
    """What the test above would say of a wheel without it."""
    found = compiled(environment, *FILES)
    assert set(found["without"]) == set(FILES)
    for name, said in found["without"].items():
        assert f'cannot open source file "{name}"' in said


@pytest.mark.turns(3)
def test_kernels_are_built_ahead_from_there(environment: Path) -> None:
    pytest.importorskip("triton", reason="triton is not installed (pip install 'rtaccel[gpu]')")
    (environment / "network.py").write_text(MODEL)
    words = ["build-kernels", "network.py:make", "--arch", "sm_90", "--out", "kernels", "--json"]
    done = run(environment, [environment / "bin" / "rtaccel", *words])
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)["kernels"]
    assert [k["name"] for k in found if k["name"].startswith("fused_gemv_M1_int8_static_N32_K64")]
    assert all(not k["was_there"] and (environment / "kernels").is_dir() for k in found)


@pytest.mark.turns(3)
def test_a_model_is_packed_from_there(environment: Path) -> None:
    """The sources that `rtaccel pack` compiles are in the wheel."""
    import torch

    import rtaccel as rt
    from rtaccel.backends.cpu import isas

    fast = rt.compile(torch.nn.Linear(6, 8).eval(), torch.randn(1, 6))
    rt.save(fast, environment / "small.rta")
    isa = next((name for name in ("avx2", "neon") if name in isas()), "portable")
    words = ["pack", "small.rta", "--isa", isa, "--embed", "-o", "packed", "--json"]
    done = run(environment, [environment / "bin" / "python", "-m", "rtaccel.cli.main", *words])
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["kernels"] == [["linear", f"cpu_{isa}"]]
    (environment / "small.c").write_text(SMALL)
    command = ["cc", "-std=c11", "-Wall", "-Werror", "small.c", "-Ipacked", "-Lpacked", "-lsmall", "-Wl,--gc-sections"]
    built = run(environment, [*command, "-lstdc++", "-lm", "-lpthread", "-ldl", "-o", "small"])
    assert built.returncode == 0, built.stderr
    x = torch.arange(6, dtype=torch.float32)[None]
    done = run(environment, [environment / "small"])
    assert bytes.fromhex(done.stdout) == fast(x).numpy().tobytes(), done.stderr


def test_a_source_distribution_holds_what_a_build_reads(tmp_path: Path) -> None:
    pytest.importorskip("scikit_build_core", reason="it makes the archive (pip install 'rtaccel[dev]')")
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a checkout")
    tracked = [
        "git",
        "ls-files",
        "--",
        "kernels",
        "rtaccel",
        "cmake",
        "CMakeLists.txt",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    ]
    files = subprocess.run(tracked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    code = "import sys; from scikit_build_core.build import build_sdist; print(build_sdist(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert len(files) > 300
    assert set(files) - held == set()
    assert not [n for n in held if n.startswith("build/") or n.endswith(".so")]
