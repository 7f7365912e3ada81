"""No address and no handle, for functions of the C library: an answer or a refusal, and no crash.

The functions are read from the headers. Of models, loops and models on a GPU all of them are called without any address, and of
the others those that make something or end it. Every function that takes a handle is called without it, and with memory else.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from rtaccel import _native as native
from tests.support.processes.run import PYTHON

ROOT = Path(__file__).parents[2]
HEADERS = [*sorted(ROOT.glob("native/*/rta_*.h")), ROOT / "kernels/_core/rta_plan.h"]
WHOLE = ("rta_model_", "rta_gpu_", "rta_loop_")
ENDS = ("_create", "_create_ports", "_open", "_connect", "_serve", "_close", "_destroy")
BY_VALUE = re.compile(r"(?:const )?rta_(?!code)\w+ (?!\*)")
"""A structure that is given back as a whole, for which ctypes needs its fields."""

CHILD = """
import ctypes, os, re, signal, sys
library = ctypes.CDLL(sys.argv[1])
memory = (ctypes.c_int64 * 65536)()
handles = set(sys.argv[2:])
def nothing(parameter):
    if "*" in parameter or "[" in parameter:
        is_handle = not handles or re.sub("const |struct ", "", parameter.strip()).split("*")[0].strip() in handles
        return ctypes.c_void_p(None if is_handle else ctypes.addressof(memory))
    if "double" in parameter: return ctypes.c_double(0)
    if "float" in parameter: return ctypes.c_float(0)
    return ctypes.c_int64(1)
for line in sys.stdin:
    name, parameters = line.rstrip().split("|")
    process = os.fork()
    if not process:
        signal.alarm(20)
        getattr(library, name)(*[nothing(p) for p in re.split(r",(?![^()]*\\))", parameters) if p.strip() not in ("", "void")])
        os._exit(0)
    status = os.waitpid(process, 0)[1]
    print(name, os.waitstatus_to_exitcode(status))
"""


HANDLE = re.compile(r"typedef struct (rta_\w+) \1;")


def declared() -> dict[str, str]:
    """Parameters of the functions by name."""
    found = {}
    for header in HEADERS:
        text = re.sub(r"/\*.*?\*/|^#.*?$", "", header.read_text(), flags=re.S | re.M)
        text = re.sub(r"(?:enum|struct)\s*\w*\s*\{[^}]*\}", "", text)
        for result, name, parameters in re.findall(
            r"^((?:const )?\w+[ *]+)(rta_\w+)\(((?:[^()]|\([^()]*\))*)\);", text, flags=re.M
        ):
            if not BY_VALUE.fullmatch(result) and header.name != "rta_packed.h":
                found[name] = " ".join(parameters.split())
    return found


def test_no_address_is_no_crash() -> None:
    every = declared()
    assert len(every) > 200, "the headers are not read"
    chosen = {n: p for n, p in every.items() if n.startswith(WHOLE) or n.endswith(ENDS)}
    assert {"rta_model_step", "rta_gpu_step", "rta_loop_start", "rta_batcher_create", "rta_door_open"} <= set(chosen)
    assert crashes(chosen, []) == {}


def test_no_handle_is_no_crash() -> None:
    """Of frames, which have none, tests/native/abi/frames.cc leaves out one address after the other."""
    handles = {name for header in HEADERS for name in HANDLE.findall(header.read_text())}
    assert {"rta_batcher", "rta_door_client", "rta_latest", "rta_plan", "rta_ud"} <= handles
    one = re.compile(rf"\b(?:{'|'.join(sorted(handles))}) ?\*(?!\*)")
    chosen = {n: p for n, p in declared().items() if one.search(p)}
    assert len(chosen) > 130, "the handles are not found"
    assert crashes(chosen, sorted(handles)) == {}


def crashes(functions: dict[str, str], handles: list[str]) -> dict[str, str]:
    """Exit codes other than 0, of each function in a process of its own; without handles, of no address at all."""
    done = subprocess.run(
        [*PYTHON, "-c", CHILD, str(Path(native.__file__).with_name("librtaccel.so")), *handles],
        input="\n".join(f"{n}|{p}" for n, p in functions.items()), capture_output=True, text=True, check=True,
    )  # fmt: skip
    ended = dict(line.split() for line in done.stdout.splitlines())
    assert set(ended) == set(functions)
    return {name: code for name, code in ended.items() if code != "0"}
