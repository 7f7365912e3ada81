"""What passes ask of expressions: how one takes in another, and which of them treat every row alike."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.traits import Node
from rtaccel.kernels._common.strides import common_sizes, dense, elements, recut
from rtaccel.kernels._expression.chain import schedule
from rtaccel.kernels._expression.program import parse

MAX_INSTRUCTIONS, MAX_OPERANDS, MAX_DIMS = 96, 24, 6

Place = tuple[int, ...]


class Expressions:
    """An rtaccel.core.traits.Merging."""

    def in_form(self, node: Node, buffers: Mapping[str, Any]) -> Node | None:
        return node

    def takes_in(self, node: Node, source: Node, elements: int) -> bool:
        name, own, theirs = source.writes[0], node.attrs, source.attrs
        if "dims" not in own or "dims" not in theirs or len(source.writes) != 1:
            return False
        whole = dense(own["dims"])
        read = [i for i, r in enumerate(node.reads) if r == name]
        if prod(own["dims"]) != elements or any(tuple(own["places"][i]) != whole for i in read):
            return False  # it reads a part, or in another order
        if len(own["program"]) + len(theirs["program"]) > MAX_INSTRUCTIONS:
            return False
        if len(node.reads) + len(source.reads) + len(node.tensors) + len(source.tensors) > MAX_OPERANDS:
            return False
        dims = common_sizes((own["dims"], theirs["dims"]))
        if dims is None or len(dims) > MAX_DIMS:
            return False
        dims = dims or (1,)
        mine, others = (
            [(p[0], *recut(attrs["dims"], p[1:], dims)) for p in attrs["places"]] for attrs in (own, theirs)
        )
        return self._join(node, source, read, dims, mine, others)

    @staticmethod
    def _join(node: Node, source: Node, read: list[int], dims: Place, mine: list[Place], others: list[Place]) -> bool:
        """The source's program first; operands of both, each once. False where too many results would lie aside."""
        inputs: list[tuple[str, Place]] = []
        constants: list[tuple[Tensor, Place]] = []

        def words(of: Node, places: list[Place], skip: list[int], result: str, shift: int) -> dict[str, str]:
            found = {}
            for i, (name, place) in enumerate(zip(of.reads, places)):
                if i in skip:
                    found[f"x{i}"] = result
                    continue
                if (name, place) not in inputs:
                    inputs.append((name, place))
                found[f"x{i}"] = f"x{inputs.index((name, place))}"
            for i, place in enumerate(places[len(of.reads) :]):
                constants.append((of.tensors[f"c{i}"], place))
                found[f"c{i}"] = f"c{len(constants) - 1}"
            return found | {f"t{i}": f"t{i + shift}" for i in range(len(of.attrs["program"]))}

        first = len(source.attrs["program"])
        theirs = words(source, others, [], "", 0)
        own = words(node, mine, read, f"t{first - 1}", first)
        program = [_renamed(line, theirs) for line in source.attrs["program"]]
        program += [_renamed(line, own) for line in node.attrs["program"]]
        try:
            schedule(parse(program, len(inputs), len(constants)), len(inputs), len(constants))
        except UnsupportedProblem:
            return False
        node.reads = [name for name, _ in inputs]
        node.tensors = {f"c{i}": tensor for i, (tensor, _) in enumerate(constants)}
        places = tuple(place for _, place in inputs) + tuple(place for _, place in constants)
        node.attrs = {**node.attrs, "program": tuple(program), "dims": dims, "places": places}
        return True

    def settle(self, node: Node, buffers: Mapping[str, Any]) -> None:
        """By rows, where every input lies as the result does, or has one number for each of its rows, and constants differ from
        column to column at most."""
        if "dims" not in node.attrs:
            return
        dims, places = tuple(node.attrs["dims"]), [tuple(p) for p in node.attrs["places"]]
        total = prod(dims)
        width = next((buffers[n].width for n in (node.writes[0], *node.reads) if buffers[n].width not in (0, 1)), 0)
        if width == 0 or total % width:
            width = total
        whole, steps = dense(dims), total // width
        for name, place in zip(node.reads, places):
            buffer = buffers[name]
            if place == whole and buffer.elements == total and buffer.width in (0, width):
                continue
            by_row = buffer.elements == steps and buffer.width == 1 and steps > 1
            if not by_row or not _each_row(dims, place, steps, width):
                return
        found = {}
        for i, place in enumerate(places[len(node.reads) :]):
            tensor = node.tensors[f"c{i}"].reshape(-1)
            index = torch.from_numpy(elements(dims, place)).reshape(steps, width)
            if not bool((index == index[:1]).all()):
                return
            row = tensor[index[0].to(tensor.device)]
            found[f"c{i}"] = row[:1].clone() if bool((index[0] == index[0, 0]).all()) else row
        for name, place in zip((node.writes[0], *node.reads), (whole, *places)):
            if place == whole and buffers[name].width not in (0, width):
                return
        for name, place in zip((node.writes[0], *node.reads), (whole, *places)):
            if place == whole:
                buffers[name].width = width
        node.op, node.tensors = "expression", found
        node.attrs = {k: v for k, v in node.attrs.items() if k not in ("dims", "places")}


EXPRESSIONS = Expressions()


def _renamed(line: str, words: Mapping[str, str]) -> str:
    name, *operands = line.split()
    return " ".join((name, *(words.get(o, o) for o in operands)))


def _each_row(dims: Place, place: Place, steps: int, width: int) -> bool:
    """Whether element r of an operand belongs to all of row r."""
    found = elements(dims, place).reshape(steps, width)
    return bool((found == found[:, :1]).all()) and bool((found[:, 0] == range(steps)).all())
