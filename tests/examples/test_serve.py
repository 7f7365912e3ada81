"""What examples/serve says to other servers: the runtime of KServe is a command that there is, on ports that fit."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from rtaccel.cli.main import build_parser

yaml = pytest.importorskip("yaml", reason="needs the package pyyaml")
FILE = Path(__file__).parents[2] / "examples" / "serve" / "kserve" / "runtime.yaml"


def test_the_runtime_of_kserve_starts_a_server_that_it_finds() -> None:
    runtime, service = yaml.safe_load_all(FILE.read_text())
    assert (runtime["kind"], service["kind"]) == ("ClusterServingRuntime", "InferenceService")
    assert service["spec"]["predictor"]["model"]["runtime"] == runtime["metadata"]["name"]
    formats = {form["name"] for form in runtime["spec"]["supportedModelFormats"]}
    assert service["spec"]["predictor"]["model"]["modelFormat"]["name"] in formats
    assert runtime["spec"]["protocolVersions"] == ["v2", "grpc-v2"]
    (container,) = runtime["spec"]["containers"]
    shell, program, *words = shlex.split(container["args"][0])
    assert (container["command"], shell, program) == (["sh", "-c"], "exec", "rtaccel")
    args = build_parser(["serve"]).parse_args(words)
    assert (args.models, args.host, args.v2) == (["/mnt/models/*.rta"], "0.0.0.0", True)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http1": args.port, "h2c": args.grpc_port}
    for probe in ("readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == args.port
        assert container[probe]["httpGet"]["path"] in ("/v2/health/ready", "/v2/health/live")
