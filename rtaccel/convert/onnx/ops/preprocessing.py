"""Features before a model, of the domain `ai.onnx.ml`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtaccel.convert.onnx.table import op

_ML = "ai.onnx.ml"


@op("ArrayFeatureExtractor", domain=_ML)
def array_feature_extractor(x: Tensor, index: Tensor) -> Tensor:
    return x.index_select(-1, index.reshape(-1).long()) if x.dim() > 1 else x[index.reshape(-1).long()][None]


@op("Scaler", domain=_ML)
def scaler(x: Tensor, *, offset: Any = (0.0,), scale: Any = (1.0,)) -> Tensor:
    """What scikit-learn's StandardScaler becomes."""
    return (x.float() - torch.tensor(offset)) * torch.tensor(scale)


@op("Normalizer", domain=_ML)
def normalizer(x: Tensor, *, norm: str = "MAX") -> Tensor:
    """A row of zeros stays."""
    x = x.float()
    if norm == "MAX":
        size = x.amax(-1, keepdim=True)
    elif norm == "L1":
        size = x.abs().sum(-1, keepdim=True)
    else:
        size = torch.sqrt((x * x).sum(-1, keepdim=True))
    return x / torch.where(size == 0, 1.0, size)


@op("Binarizer", domain=_ML)
def binarizer(x: Tensor, *, threshold: float = 0.0) -> Tensor:
    return (x > threshold).to(x.dtype)


@op("Imputer", domain=_ML)
def imputer(
    x: Tensor, *, imputed_value_floats: Any = (), replaced_value_float: float = 0.0, imputed_value_int64s: Any = (),
    replaced_value_int64: int = 0,
) -> Tensor:  # fmt: skip
    """Numbers in the place of those that are missing."""
    if not x.dtype.is_floating_point:
        return torch.where(x == replaced_value_int64, torch.tensor(imputed_value_int64s), x)
    missing = x.isnan() if np.isnan(replaced_value_float) else x == replaced_value_float
    return torch.where(missing, torch.tensor(imputed_value_floats), x)


@op("FeatureVectorizer", domain=_ML)
def feature_vectorizer(*parts: Tensor, inputdimensions: Any = ()) -> Tensor:
    return torch.cat([part.float().reshape(part.shape[0], -1) for part in parts], -1)


@op("OneHotEncoder", domain=_ML, builds=True)
def one_hot(build: Any, x: Any, *, cats_int64s: Any = (), cats_strings: Any = (), zeros: int = 1) -> Any:
    if len(cats_strings):
        build.refuse("encodes text; encode it before, and export the model of the numbers")
    if not zeros:
        build.refuse("fails for an unknown number (zeros=0); export it with zeros=1")
    return build.call(equal_to, x, build.constant(np.array(cats_int64s, "int64")))


def equal_to(x: Tensor, known: Tensor) -> Tensor:
    return (x.long()[..., None] == known).float()


@op("LabelEncoder", domain=_ML, builds=True)
def label_encoder(build: Any, x: Any, **attrs: Any) -> Any:
    """A number for a number, by a table; `default` for what is not in it."""
    keys = next((attrs[k] for k in ("keys_int64s", "keys_floats") if k in attrs), None)
    values = next((attrs[k] for k in ("values_int64s", "values_floats") if k in attrs), None)
    if keys is None or values is None:
        build.refuse("encodes text, or tensors; numbers for numbers have a form here")
    whole = "values_int64s" in attrs
    other = attrs.get("default_int64", -1) if whole else attrs.get("default_float", -0.0)
    kind = "int64" if "keys_int64s" in attrs else "float32"
    made = np.array(values, "int64" if whole else "float32")
    return build.call(encoded, x, build.constant(np.array(keys, kind)), build.constant(made), default=other)


def encoded(x: Tensor, keys: Tensor, values: Tensor, *, default: float) -> Tensor:
    same = x[..., None] == keys
    place = torch.argmax(same.float(), -1)
    found = values.index_select(0, place.reshape(-1)).reshape(place.shape)
    return torch.where(same.any(-1), found, torch.tensor(default, dtype=values.dtype))


@op("ZipMap", domain=_ML, builds=True)
def zip_map(build: Any, x: Any, **attrs: Any) -> Any:
    build.refuse("makes a dict of each row; export the model without it (skl2onnx: options={'zipmap': False})")


@op("CategoryMapper", "DictVectorizer", domain=_ML, builds=True)
def of_text(build: Any, x: Any, **attrs: Any) -> Any:
    build.refuse("reads text or dicts; encode them before, and export the model of the numbers")
