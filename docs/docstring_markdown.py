"""The project's docstrings as Markdown, for the generated API reference.

Docstrings here are plain text: `name: what it is` for arguments and fields, an indented block
for formulas and examples. Markdown would join such lines, so each becomes an item of a list and each example a code block.
"""

from __future__ import annotations

import re
import textwrap

ITEM = re.compile(r"([A-Za-z_]\w*(?: \.\. \w+)?(?:, [A-Za-z_]\w*)*): (.+)")
"""A line that starts the description of one or several names."""


def to_markdown(text: str, names: set[str]) -> str:
    """names: what the object has: its parameters, fields and properties; other lines with a colon are sentences."""
    out: list[str] = []
    lines = text.splitlines()
    i, listed = 0, False
    while i < len(lines):
        line = lines[i]
        found = ITEM.fullmatch(line)
        if line.strip() in ("Example:", "Examples:") or line.startswith(">>> "):
            i = _example(lines, i, out)
            listed = False
        elif found and known(found[1], names):
            if not listed:
                out.append("")
            words = ", ".join(f"`{name}`" for name in re.split(r", ", found[1]))
            out.append(f"- {words}: {found[2]}")
            listed = True
            i += 1
        else:
            if listed and line and not line.startswith("    "):
                if lines[i - 1].strip():  # a sentence right behind the list
                    out.append("")
                listed = False
            out.append(line)
            i += 1
    return re.sub(r"(?<!`)(\[[^\]`]*\])\[", r"\1\\[", "\n".join(out))


def known(words: str, names: set[str]) -> bool:
    """Whether all words before a colon are names of the object."""
    given = [word for word in re.split(r", | \.\. ", words) if word]
    return all(word in names for word in given)


def _example(lines: list[str], i: int, out: list[str]) -> int:
    """Lines of an example, as a code block; gives the index behind them."""
    if not lines[i].startswith(">>> "):
        i += 1
    block = []
    while i < len(lines) and (lines[i].startswith((" ", ">>> ", "... ")) or (block and lines[i].strip())):
        block.append(lines[i])
        i += 1
    out += ["", "```pycon", *textwrap.dedent("\n".join(block)).splitlines(), "```", ""]
    return i
