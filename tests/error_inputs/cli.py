"""What nobody should write on the command line: (name, words, exit code, what is said on standard error).

{nets} stands for a file of models, {folder} for a folder that is there, with budgets and shapes in it.
"""

from __future__ import annotations

Case = tuple[str, list[str], int, str]

CASES: list[Case] = []

FILES = {
    "nets.py": """
import torch
from torch import nn
def net():
    return nn.Linear(6, 4).eval(), (torch.randn(2, 6),), [torch.randn(9, 6)]
def raises():
    raise KeyError("mine")
def exits():
    raise SystemExit(0)
number = 3
alone = nn.Linear(2, 2)
four = (nn.Linear(2, 2), 1, 2, 3)
training = (nn.Sequential(nn.Linear(2, 2), nn.Dropout()), torch.randn(1, 2))
wrong_width = (nn.Linear(2, 2).eval(), torch.randn(1, 3))
empty = (nn.Linear(2, 2).eval(), torch.randn(0, 2))
""",
    "half.py": "def net(:\n",
    "other.toml": '[budget."nets.py:nett"]\np99_us = 3\n',
    "bad.toml": '[budget."x"]\np95_us = 3\n',
    "broken.toml": "[budget",
    "shapes.toml": "[[softmax]]\nrows = 1\n",
    "weights.pt": "x",
}


def add(name: str, words: str, said: str, code: int = 2) -> None:
    CASES.append((name, words.split(), code, said))


add("no verb", "", "usage: rtaccel")
add("an unknown verb", "explode", "usage: rtaccel")
add("a verb nearly right", "benhc", "usage: rtaccel")
for verb in ("explain", "profile", "compile"):
    add(f"{verb} nothing", verb, "usage: rtaccel")
    for option in ("--no-such-option", "--device tpu", "--threads x", "--threads 1.5", "--scheme"):
        add(f"{verb} {option}", f"{verb} {{nets}}:net {option}", "usage: rtaccel")
    for name, target, said in (
        ("a target without a name", "{nets}", "after a colon"), ("a target without a file", ":net", "after a colon"),
        ("an empty name", "{nets}:", "after a colon"), ("a file that is not there", "gone.py:net", "There is no"),
        ("a name that is not there", "{nets}:nett", "no 'nett'"), ("a number", "{nets}:number", "gives int"),
        ("a model alone", "{nets}:alone", "gives Linear"), ("four things", "{nets}:four", "gives tuple of"),
        ("a file of weights", "{folder}/weights.pt:net", "not opened"), ("no module", "no.such.module:net", "can be imported"),
        ("no identifier", "a-b:net", "Name a module"), ("a relative module", ".nets:net", "Name a module"),
    ):  # fmt: skip
        add(f"{verb} {name}", f"{verb} {target}", said)
    for name, code, said in (("raises", 3, "KeyError: 'mine'"), ("exits", 3, "SystemExit: 0")):
        add(f"{verb} code that {name}", f"{verb} {{nets}}:{name}", said, code)
    add(f"{verb} a saved model", f"{verb} model.rta", "compiled already")
    add(f"{verb} code that is no Python", f"{verb} {{folder}}/half.py:net", "SyntaxError", 3)
    add(f"{verb} another scheme", f"{verb} {{nets}}:net --scheme w9", "w9")
    add(f"{verb} another backend", f"{verb} {{nets}}:net --backend abacus", "abacus")
    add(f"{verb} threads=0", f"{verb} {{nets}}:net --threads 0", "threads")
    add(f"{verb} an example of another width", f"{verb} {{nets}}:wrong_width", "cannot be multiplied", 3)
for option, said in (
    ("--calls x", "usage"), ("--calls 0", "calls"), ("--calls 10000000", "calls"), ("--seconds x", "usage"),
    ("--seconds nan", "seconds=nan"), ("--seconds -1", "seconds=-1"), ("--seconds 1e30", "seconds=1e+30"),
    ("--budget p99_us", "--budget"), ("--budget p99_us=x", "--budget"), ("--budget p95_us=3", "p95_us"),
    ("--budget =3", "--budget"),
    ("--budget p99_us=nan", "p99_us=nan"), ("--budget p99_us=-3", "p99_us=-3"), ("--budget p99_us=1e999", "p99_us=inf"),
    ("--budget p99_us=1 --budget p99_us=2", "once"), ("--budget size_bytes=1.5", "size_bytes"), ("--with stopwatch", "usage"),
    ("--out gone/r.html", "folder that exists"), ("--png gone/r.png", "folder that exists"),
    ("--markdown gone/r.md", "folder that exists"),
):  # fmt: skip
    add(f"profile {option}", f"profile {{nets}}:net {option}", said)
add("compile into another kind of file", "compile {nets}:net --out model.onnx", ".safetensors")
add("compile into a folder that is not there", "compile {nets}:net --out gone/m.safetensors", "folder that exists")
for option, said in (
    ("no/such/kernel", "no/such/kernel"), ("--shapes gone.toml", "gone.toml"),
    ("--shapes {folder}/shapes.toml", "without name"), ("--shapes {folder}/broken.toml", "shapes file"),
    ("--seconds x", "usage"), ("--seconds nan softmax/*", "seconds=nan"), ("--seconds 0 softmax/*", "seconds=0"),
    ("--rounds 0", "--rounds"), ("--processes 0", "--processes"), ("--rounds x", "usage"), ("--threshold -1", "--threshold"),
    ("--threshold nan", "--threshold"), ("--out gone/r.html", "folder that exists"), ("--csv gone/r.csv", "folder that exists"),
    ("--against HEAD --budgets b.toml", "--against with --budgets"), ("--against HEAD --csv r.csv", "--against with --csv"),
    ("--against HEAD --sweep batch=1", "--against with --sweep"), ("--budgets gone.toml {nets}:net", "gone.toml"),
    ("--budgets {folder}/bad.toml {nets}:net", "p95_us"), ("--budgets {folder}/broken.toml {nets}:net", "TOML"),
    ("--budgets {folder}/other.toml {nets}:net", "nets.py:nett"), ("--sweep {nets}:net", "--sweep"), ("--sweep batch", "--sweep"),
    ("--sweep batch=", "--sweep"), ("--sweep batch=0 {nets}:net", "--sweep"), ("--sweep size=3 {nets}:net", "--sweep"),
    ("--sweep batch=1,1 {nets}:net", "--sweep"), ("--sweep batch=1 --sweep batch=2 {nets}:net", "--sweep"),
    ("--sweep scheme=w8a8 softmax/*", "targets alone"), ("--sweep batch=2 {nets}:empty", "without samples"),
    ("--sweep scheme=w9 {nets}:net", "w9"), ("{nets}:nett", "no 'nett'"),
):  # fmt: skip
    add(f"bench {option}", f"bench {option}", said)
add("bench code that raises", "bench {nets}:raises", "KeyError: 'mine'", 3)
for words, said in (
    ("", "usage"), ("no_such_kernel", "one of"), ("linear/no_such", "linear/cpu_"),
    ("linear/cpu_portable --case rows=1", "Leave it out"),
    ("linear/cpu_portable --arch", "usage"),
):  # fmt: skip
    add(f"inspect {words}", f"inspect {words}", said)
for words, said in (
    ("--arch sm_75", "sm_75"), ("--arch ,", "at least one"), ("--arch x", "'x'"), ("{nets}:nett", "no 'nett'"),
    ("{nets}:number", "gives int"), ("--stream --persistent", "usage"), ("--stream", "target"),
    ("{nets}:net --model {nets}:net", "one target"),
):  # fmt: skip
    add(f"build-kernels {words}", f"build-kernels {words}", said)
for words, said in (("", "usage"), ("tcsh", "usage"), ("bash zsh", "usage")):
    add(f"completion {words}", f"completion {words}", said)
for words, said in (
    ("--budget x", "usage"), ("--budget -3", "p99_us=-3"), ("--budget nan", "p99_us=nan"), ("--seed x", "usage"),
    ("--max-auroc-drop -1", "max_error=-1"), ("--out gone/r.html", "folder that exists"),
):  # fmt: skip
    add(f"demo {words}", f"demo {words}", said)
add("info with a word", "info here", "usage")
for option in ("--every nan", "--every -1", "--seconds nan", "--seconds -1"):
    add(f"top {option}", f"top {option} no-such-loop", option)
for words, said in (
    ("replay no-slot gone.npz", "No such file"), ("replay no-slot nets.py", "no .npz archive"), ("play a b", "usage"),
    ("replay a,b nets.py", "no .npz"), ("record no-slot", "usage"), ("record a/b r.npz --count 1", "letters, digits"),
):  # fmt: skip
    add(f"loop {words}", f"loop {words}", said)
for option in ("nan", "-1", "inf"):
    add(f"detect rows {option}", f"detect series.csv --live --rows-per-second {option}", f"--rows-per-second {option}")
for words in ("0", "3:1", "x", "1:x", ":"):
    add(f"serve replicas {words}", f"serve m.rta --ray --replicas {words}", "FEWEST:MOST")
