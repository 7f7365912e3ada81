"""The words of the code, its comments and its error texts: the field's terms, as those of pages in test_words.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SUFFIXES = (".py", ".cc", ".h", ".cu", ".in")
EXEMPT = {"test_words.py", "test_words_in_code.py"}
FOLDERS = ("rtaccel", "kernels", "bench", "tests", "examples")

OLD: dict[str, str] = {
    r"(?i:\w*quantis[ei]\w*)": "quantize",
    r"(?i:\w*specialis[ei]\w*)": "specialize",
    r"\b(?:normal|optim|standard|recogn|initial|parametr|synchron|serial|real|organ)is(?:e|ed|es|er|ing|ation)\b": "-ize",
    r"\b(?:neighbour|behaviour|colour|favour|honour)\w*|\bmodell(?:ed|ing)\b": "American spelling",
    r"\b(?:Sparse|Linear|Block|Plane)Numbers\b|\bclass Numbers\b": "Params",
    r"\bmoment_by_moment\b|\bmoment by moment\b": "one time step at a time",
    r"\b[fF]orm_of\b|\bclass Form\b|\bPtxForm\b": "select_config, KernelConfig, PtxSpec",
    r"\bclass (?:Draft|Layer|Group|Port|Slot|Captured|TorchStep|Moments|Watch)\b": "a name that says what it is a part of",
    r"\bResident[A-Z]\w*|\bresident_(?:kernel|device|plan|network|tiles)\w*|\btriton_resident\w*": "persistent",
    r"\btriton_cut\w*|\bcut_kernel\b": "partition",
    r"\b_?(?:LEAST|MOST)_[A-Z]\w*": "MIN_ or MAX_",
    r"\bcanvas_?\b|\bCanvas\w*": "padded_image",
    r"\b(?:un)?spoil\w*|\bpoison\w*": "nan_propagation, nan_marks, nonfinite",
    r"\bfelt\b": "receptive field",
    r"\bhalved(?= *[=:])": "sigmoid_gates",
    r"\bpretended\w*|\bPretended\w*": "fake",
    r"\bspelled\b": "decomposed",
    r"\bdemanding\b": "with_requirements",
    r"\bkernels? that stays?\b|\b[rR]esident (?:kernel|model|stream|network)s?\b": "persistent kernel",
    r"\breckoned\b": "computed",
    r"\bmanners of\b": "conventions of",
    r"\bleft to torch\b|\bstays? torch's\b": "falls back to PyTorch",
}
"""Pattern -> what to write instead."""

SOURCES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.suffix in SUFFIXES and path.name not in EXEMPT
)


def old_words(text: str) -> list[str]:
    found = []
    for pattern, new in OLD.items():
        for match in re.finditer(pattern, text):
            found.append(f"line {text.count(chr(10), 0, match.start()) + 1}: {match[0]!r}, write {new!r}")
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_old_words_are_gone(folder: str) -> None:
    files = [path for path in SOURCES if path.relative_to(ROOT).parts[0] == folder]
    assert files
    said = {
        str(path.relative_to(ROOT)): found for path in files if (found := old_words(path.read_text(encoding="utf-8")))
    }
    assert not said, "\n".join(f"{name}: {'; '.join(found)}" for name, found in said.items())


def test_the_check_finds_what_it_should() -> None:
    assert len(old_words("def quantise(x): ...\nclass Form:\n    MOST_ROWS = 3")) == 3
    assert old_words("def quantize(x): ...\nclass KernelConfig:\n    MAX_ROWS = 3") == []
