"""Writes docs/reference/onnx-operators.md from the table of operators: python docs/write_onnx_operators.py"""

from __future__ import annotations

from pathlib import Path

from rtaccel.convert.onnx import control
from rtaccel.convert.onnx.table import entries
from rtaccel.deploy.onnx.registry import forms

PAGE = Path(__file__).parent / "reference" / "onnx-operators.md"
HEAD = """# ONNX operators

What `rt.from_onnx` reads and `rt.to_onnx` writes. `python docs/write_onnx_operators.py` writes this page from the tables in
`rtaccel/convert/onnx` and `rtaccel/deploy/onnx`. The guide is [ONNX in and out](../how-to/onnx.md).

## Read

Operators of the default domain, by the file in `rtaccel/convert/onnx/ops` that has them. An operator that the standard defines by
others is written out where it is not in the table. One that only constants come to is computed while reading.

| family | operators |
|---|---|
"""


def page() -> str:
    families: dict[str, set[str]] = {"control": {*control.BUILDS, "Constant", "Shape", "Size"}}
    foreign: dict[str, set[str]] = {}
    for (domain, name), found in entries().items():
        if domain:
            foreign.setdefault(domain, set()).add(name)
        elif name in REFUSED:
            families.setdefault("refused by name", set()).add(name)
        else:
            families.setdefault(family_of(found[-1].run.__module__), set()).add(name)
    rows = [f"| {family} | {', '.join(sorted(names))} |" for family, names in sorted(families.items())]
    rows += [f"| domain `{domain}` | {', '.join(sorted(names))} |" for domain, names in sorted(foreign.items())]
    by_letter: dict[str, list[str]] = {}
    for name in sorted(forms()):
        by_letter.setdefault(name[0], []).append(f"`{name}`")
    written = "\n".join(f"| {', '.join(names)} |" for names in by_letter.values())
    return (
        HEAD
        + "\n".join(rows)
        + f"\n\n## Written\n\n| stages of these operators have a form in ONNX |\n|---|\n{written}\n"
    )


REFUSED = {"Compress", "NonZero", "Unique", "NonMaxSuppression"}
"""They give as many elements as their values say."""


def family_of(module: str) -> str:
    return module.rpartition(".")[2]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
