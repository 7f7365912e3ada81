"""Modules of TorchScript as modules of Python: scripted, traced, frozen, or loaded from a file.

torch.export refuses a ScriptModule. Here its graph is read, and a module of Python does in `forward` what the graph says, node by
node, under the same dotted names. What captures models then sees a model like any other.
"""

from __future__ import annotations

from rtaccel.convert.frontend.torchscript.python_form import in_python, title_of
from rtaccel.convert.frontend.torchscript.types import with_read_tuples

__all__ = ["in_python", "title_of", "with_read_tuples"]
