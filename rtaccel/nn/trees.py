"""`TreeEnsemble`: sums over decision trees, as gradient boosting and random forests have them, as a torch module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rtaccel.core.errors import ShapeError
from rtaccel.kernels.tree_ensemble import contract
from rtaccel.nn.check import describe

_library = torch.library.Library("rtaccel", "FRAGMENT")
_library.define(
    "tree_ensemble(Tensor x, Tensor feature, Tensor threshold, Tensor child, Tensor nan_first, Tensor root, Tensor value, "
    "int depth, bool strict) -> Tensor"
)


def _compute(x: Tensor, *tables: Any) -> Tensor:
    *tensors, depth, strict = tables
    attrs = {"depth": depth, "strict": int(strict)}
    made = contract.sums(x.reshape(-1, x.shape[-1]), dict(zip(contract.TABLES, tensors)), attrs)
    return made.reshape(*x.shape[:-1], made.shape[-1])


def _fake(x: Tensor, *tables: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], tables[-3].shape[1]))


_library.impl("tree_ensemble", _compute, "CompositeExplicitAutograd")
torch.library.register_fake("rtaccel::tree_ensemble", _fake, lib=_library)
TREE_ENSEMBLE: Any = torch.ops.rtaccel.tree_ensemble.default


class TreeEnsemble(nn.Module):
    """y[..., :] = sum over trees of value[leaf(tree, x[...])]: x float32 [..., F], y float32 [..., T]. Inference only.

    Nodes of all trees lie in one table, each behind its parent. At a node a tree goes on with `child[node, 0]` where
    `x[feature[node]] <= threshold[node]`, else with `child[node, 1]`. The way through a tree is exact, and the sum rounds
    once a tree. By itself it is plain torch; `rt.compile` makes one native stage of it. `rt.from_onnx` makes it of the
    models that scikit-learn, LightGBM and XGBoost export.

    features: F, numbers of a row of x.
    feature: int32 [N], -1 for a leaf.
    threshold: float32 [N].
    child: int32 [N, 2]; of a leaf the first is its row of value.
    value: float32 [L, T], of leaves.
    root: int32 [trees], the first node of each.
    nan_first: int8 [N], 1 where NaN goes to the first child; None: it goes to the second everywhere.
    strict: compare with < instead of <=, as XGBoost does.

    Raises FormatError for tables that are no trees, also by `load_state_dict`; ShapeError for an x of another width or dtype.

    Example:
        >>> import torch, rtaccel as rt
        >>> stump = rt.nn.TreeEnsemble(
        ...     2, torch.tensor([1, -1, -1]), torch.tensor([0.5, 0, 0]), torch.tensor([[1, 2], [0, 0], [1, 0]]),
        ...     torch.tensor([[-1.0], [1.0]]), torch.tensor([0]))
        >>> rt.compile(stump, torch.zeros(1, 2))(torch.tensor([[9.0, 0.5], [9.0, 0.6]]))
        tensor([[-1.],
                [ 1.]])
    """

    feature: Tensor
    threshold: Tensor
    child: Tensor
    nan_first: Tensor
    root: Tensor
    value: Tensor

    def __init__(
        self, features: int, feature: Tensor, threshold: Tensor, child: Tensor, value: Tensor, root: Tensor,
        nan_first: Tensor | None = None, *, strict: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if nan_first is None:
            nan_first = torch.zeros(feature.shape, dtype=torch.int8, device=feature.device)
        given = {"feature": feature.int(), "threshold": threshold.float(), "child": child.int(),
                 "nan_first": nan_first.to(torch.int8), "root": root.int(), "value": value.float()}  # fmt: skip
        contract.require_trees("TreeEnsemble", given, features, value.shape[-1] if value.dim() == 2 else 0)
        self.features, self.strict = features, strict
        self.depth = contract.attributes(given, strict)["depth"]
        for name, tensor in given.items():
            self.register_buffer(name, tensor.contiguous())
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32 or not x.dim() or x.shape[-1] != self.features:
            expected = f"float32[..., {self.features}]"
            raise ShapeError("TreeEnsemble", describe(x), expected, "Pass a row of features for each sample.")
        tables = (getattr(self, name) for name in contract.TABLES)
        return TREE_ENSEMBLE(x, *tables, self.depth, self.strict)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Refuses what are no trees before anything is copied; shapes are told of by torch."""
        own = {name: getattr(self, name) for name in contract.TABLES}
        given = {name: state_dict.get(prefix + name, table) for name, table in own.items()}
        fits = all(isinstance(table, Tensor) and table.shape == own[name].shape for name, table in given.items())
        if fits:
            tables = {name: table.to(own[name]) for name, table in given.items()}
            contract.require_trees("TreeEnsemble.load_state_dict", tables, self.features, self.value.shape[1])
        super()._load_from_state_dict(state_dict, prefix, *rest)
        if fits:
            self.depth = contract.attributes(own, self.strict)["depth"]

    def extra_repr(self) -> str:
        trees, nodes = self.root.numel(), self.feature.numel()
        return f"{trees} trees, {nodes} nodes, depth {self.depth}, {self.features} -> {self.value.shape[1]}"
