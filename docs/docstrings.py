"""A griffe extension of mkdocstrings: rewrites each docstring by docstring_markdown.py when its module was read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).parent))

from docstring_markdown import to_markdown


class Docstrings(griffe.Extension):
    """Named in mkdocs.yml."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is None:
            return
        names: set[str] = set()
        if isinstance(obj, griffe.Function):
            names = {p.name for p in obj.parameters}
        elif isinstance(obj, griffe.Class):
            names = set(obj.members)
            init = obj.members.get("__init__")
            if isinstance(init, griffe.Function):
                names |= {p.name for p in init.parameters}
        obj.docstring.value = to_markdown(obj.docstring.value, names)
