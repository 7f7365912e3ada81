"""Shell completion: made from the parsers, so every verb and option is there; bash itself is asked where it is installed."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from rtaccel.cli import completion
from rtaccel.cli.main import main, verb_names


def in_bash(line: str) -> set[str]:
    """What bash would offer at the end of a line."""
    words = line.split(" ")
    quoted = " ".join(f"'{word}'" for word in words)
    script = f"{completion.script('bash')}\nCOMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _rtaccel; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert not done.stderr
    return set(done.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_verbs_options_and_choices() -> None:
    assert in_bash("rtaccel ") == set(verb_names())
    assert in_bash("rtaccel pro") == {"profile"}
    assert {"--sweep", "--csv", "--budgets", "--json", "--help"} <= in_bash("rtaccel bench --")
    assert in_bash("rtaccel explain x:y --dev") == {"--device"}
    assert in_bash("rtaccel explain x:y --device ") == {"cpu", "cuda"}
    assert in_bash("rtaccel completion f") == {"fish"}
    assert in_bash("rtaccel no-such-verb --") == set()


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_every_option_of_every_verb_is_in_every_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert main(["completion", shell, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["script"] + "\n" == text
    for verb, (_, options) in completion.verbs().items():
        assert verb in text
        for flag in (flag for option in options for flag in option.flags):
            assert (flag if shell != "fish" else flag.lstrip("-")) in text
    if shutil.which(shell):
        done = subprocess.run([shell, "-n"], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
