"""rtaccel pack --isa wasm: in Node and in a browser a model gives the bits that it gives here."""

from __future__ import annotations

import functools
import http.server
import os
import queue
import re
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.core import settings
from rtaccel.deploy.pack import pack
from tests.deploy.networks import Recurrent
from tests.support.processes.run import PYTHON

ROOT = Path(__file__).parents[2]

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
DATA = settings.test_data() / "mlperf_tiny_ad01"
emscripten = pytest.mark.skipif(shutil.which("emcmake") is None, reason="no Emscripten (Debian: emscripten)")
node = pytest.mark.skipif(shutil.which("node") is None, reason="no Node (Debian: nodejs)")


def stepped(folder: Path, name: str, file: Path | str, x: torch.Tensor) -> bytes:
    """Outputs of all steps: x is [steps, samples, ...]."""
    command = ["node", Path(__file__).with_name("step.mjs"), folder, name, file, str(x.shape[0]), str(x.shape[1])]
    done = subprocess.run(command, input=x.numpy().tobytes(), capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


PORTABLE = """
import sys
import numpy as np
import rtaccel as rt
model, x = rt.load(sys.argv[1]), np.load(sys.argv[2])
sys.stdout.buffer.write(b"".join(model(row).tobytes() for row in x))
"""


def portable(file: Path, x: torch.Tensor) -> bytes:
    """What this processor's portable kernels give: float32 sums are in another order where vectors are longer."""
    np.save(file.with_suffix(".npy"), x.numpy())
    command = [*PYTHON, "-c", PORTABLE, file, file.with_suffix(".npy")]
    return subprocess.run(
        command, capture_output=True, check=True, env={**os.environ, settings.CPU_ISA: "portable"}
    ).stdout


def made_page(out: Path) -> float:
    """By the example; the score that it says."""
    words = [*PYTHON, "-m", "examples.web.make", out, "--data", DATA]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return float(re.search(r"score of the recording: ([\d.]+)\.", done.stdout)[1])


WATCH = b"""<script type="module">
  const result = document.getElementById("result");
  const tell = () => {
    const { score, failed } = result.dataset;
    if (score !== undefined) fetch("/told", { method: "POST", body: `score ${score}` });
    else if (failed !== undefined) fetch("/told", { method: "POST", body: `failed ${result.textContent}` });
    else setTimeout(tell, 50);
  };
  tell();
</script>"""


class Told(http.server.SimpleHTTPRequestHandler):
    """The page's files, and a script behind its own that says what it came to: however slow the machine is, nobody
    has to guess how long that takes."""

    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}  # noqa: RUF012

    def __init__(self, told: queue.Queue[str], *args, **more):
        self.told = told
        super().__init__(*args, **more)

    def do_GET(self) -> None:
        if self.path == "/index.html":
            self.answer((Path(self.directory) / "index.html").read_bytes() + WATCH)
        else:
            super().do_GET()

    def do_POST(self) -> None:
        self.told.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.answer(b"")

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


def waited(told: queue.Queue[str], browser: subprocess.Popen, log: Path) -> str:
    for _ in range(1_200):  # seconds: what a page that works needs less than one of, on a free machine
        try:
            return told.get(timeout=1)
        except queue.Empty:
            assert browser.poll() is None, f"the browser ended: {log.read_text()[-3000:]}"
    raise AssertionError(f"the page said nothing: {log.read_text()[-3000:]}")


@pytest.mark.turns(3)
@emscripten
@node
def test_streams_give_the_same_bits(tmp_path: Path) -> None:
    torch.manual_seed(1)
    x = torch.randn(30, 3, 6)
    live = rt.stream(Recurrent().eval(), x[0], scheme="w8a8", calibration=[torch.randn(8, 30, 6)])
    file = rt.save(live, tmp_path / "voice.rta")
    told = pack(file, tmp_path / "web", ["wasm"])
    assert told.measured
    assert told.files == ("voice.wasm", "voice.mjs", "rtaccel.mjs")
    listed = sum(size for _, size in told.sections)  # by the linker, before Emscripten's own pass over the module
    assert listed <= 1.01 * told.program_bytes <= 450_000
    assert stepped(tmp_path / "web", "voice", file, x) == b"".join(live.step(row).numpy().tobytes() for row in x)


@pytest.mark.turns(3)
@emscripten
@node
def test_every_format_gives_the_same_bits(tmp_path: Path) -> None:
    """Within the module; nothing of a page is imported."""
    torch.manual_seed(2)
    schemes = [rt.Float32(), rt.W8A8(), rt.W8A16(), rt.W4A16(), rt.W4A8(), rt.BFloat16(), rt.W8A8("dynamic")]
    layers = [part for _ in schemes for part in (nn.Linear(40, 40), nn.GELU(), nn.LayerNorm(40))]
    scheme = {str(3 * i): s for i, s in enumerate(schemes)}
    fast = rt.compile(nn.Sequential(*layers).eval(), torch.randn(1, 40), scheme, calibration=[torch.randn(128, 40)])
    file = rt.save(fast, tmp_path / "mlp.rta")
    told = pack(file, tmp_path / "web", ["wasm"], embed=True)
    assert "embedded model" not in dict(told.sections)
    x = torch.randn(2, 3, 40)
    assert stepped(tmp_path / "web", "mlp", "-", x) == portable(file, x)
    code = (
        'console.log(WebAssembly.Module.imports(new WebAssembly.Module(require("fs").readFileSync(process.argv[1]))))'
    )
    done = subprocess.run(
        ["node", "-e", code, tmp_path / "web" / "mlp.wasm"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.turns(3)
@emscripten
@pytest.mark.skipif(BROWSER is None, reason="no Chromium (Debian: chromium)")
@pytest.mark.skipif(
    not (DATA / "ad01_weights.npz").exists(),
    reason="no mlperf_tiny_ad01 in the test data folder (set RTACCEL_TEST_DATA to have it)",
)
def test_the_page_scores_the_recording(tmp_path: Path) -> None:
    want = made_page(tmp_path / "page")
    told: queue.Queue[str] = queue.Queue()
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Told, told, directory=str(tmp_path / "page"))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0"]
        flags += [f"--user-data-dir={tmp_path / 'profile'}", f"http://127.0.0.1:{server.server_port}/index.html"]
        with (
            (tmp_path / "browser.log").open("wb") as log,
            subprocess.Popen([str(BROWSER), *flags], stderr=log) as browser,
        ):
            try:
                answer = waited(told, browser, tmp_path / "browser.log")
            finally:
                browser.terminate()
                server.shutdown()
    assert answer.startswith("score "), answer
    assert float(answer.split()[1]) == pytest.approx(want, rel=1e-4)


def test_what_a_page_has_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = rt.save(rt.compile(nn.Linear(4, 4).eval(), torch.randn(1, 4)), tmp_path / "small.rta")
    with pytest.raises(rt.UnsupportedProblem, match="threads with isa wasm"):
        pack(file, tmp_path / "out", ["wasm"], threads=True)
    with pytest.raises(rt.UnsupportedProblem, match="a compiler or toolchain with isa wasm"):
        pack(file, tmp_path / "out", ["wasm"], compiler="c++")
    with pytest.raises(rt.UnsupportedProblem, match="of one processor"):
        pack(file, tmp_path / "out", ["wasm", "avx2"])
    find = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, **more: None if name == "emcmake" else find(name, **more))
    with pytest.raises(rt.BackendUnavailable, match="no emcmake"):
        pack(file, tmp_path / "out", ["wasm"])
    assert not (tmp_path / "out").exists()
