"""Instructions by kind: what a kernel's code is made of. Occurrences in the code, not how often they run."""

from __future__ import annotations

import re
from collections.abc import Mapping

SASS = {
    "tensor cores": r"[IHQBD]?(MMA|GMMA)|UTC\w*MMA|OMMA|QMMA",
    "dp4a": r"IDP",
    "global loads": r"LDG|LDGSTS|UTMALDG|LD\b",
    "global stores": r"STG|RED\b|REDG|ATOMG|UTMASTG|ST\b",
    "shared memory": r"LDS|STS|LDSM|STSM|ATOMS",
    "local memory (spills)": r"LDL|STL",
    "barriers": r"BAR|DEPBAR|SYNCS|WARPSYNC|ERRBAR|MEMBAR",
    "shuffles": r"SHFL|REDUX",
    "transcendental": r"MUFU",
    "float": r"F(FMA|MUL|ADD|SETP|SEL|MNMX|CHK|SET)|H(FMA|MUL|ADD)2|D(FMA|MUL|ADD)",
    "conversions": r"[IF]2[IF]P?|F2FP|I2FP|PRMT|SGXT|BMSK",
    "control": r"BRA|EXIT|CALL|RET|BSSY|BSYNC|JMP|NANOSLEEP",
}
"""Kind -> pattern of the start of a mnemonic in machine code. What fits none is "integer and moves"."""

PTX = {
    "tensor cores": r"w?g?mma|tcgen05",
    "dp4a": r"dp4a",
    "global loads": r"ld\.(volatile\.|relaxed\.|acquire\.)?\w*\.?global|cp\.async",
    "global stores": r"st\.(\w+\.)?global|red\.|atom\.",
    "shared memory": r"(ld|st)\.(\w+\.)?shared|ldmatrix|stmatrix",
    "local memory (spills)": r"(ld|st)\.local",
    "barriers": r"bar|barrier|mbarrier|membar|fence",
    "shuffles": r"shfl|redux",
    "transcendental": r"(ex2|lg2|sin|cos|tanh|rcp|sqrt|rsqrt)\.",
    "float": r"(fma|mul|add|sub|max|min|neg|abs|setp|selp|div)\.[\w.]*f\d+",
    "conversions": r"cvt|prmt",
    "control": r"bra|ret|exit|call",
}

CPU = {
    "int8 dot products": r"vpdpbus?d|vpdpbssd|tdpb|sdot|udot|usdot",
    "bf16 dot products": r"vdpbf16ps|bfdot|bfmmla",
    "16-bit products": r"vpmaddwd|vpmaddubsw|smull|smlal",
    "fused multiply-add": r"vfn?m(add|sub)|fml[as]|fmadd",
    "float": r"v(add|sub|mul|div|max|min|cmp|rnd\w*|sqrt|rcp\w*|cvt\w*)[ps][sd]|f(add|sub|mul|div|max|min|cvt\w*)",
    "integer vectors": r"vp\w+|v(pternlog|permt?)\w*|[su](add|max|min|sh|ql|qx)\w*",
    "moves": r"v?mov\w*|vbroadcast\w*|ldr\w*|str\w*|ld[1-4]\w*|st[1-4]\w*|ldp|stp|lea|tileload\w*|tilestore\w*",
    "shuffles": r"v(shuf|unpck|perm|align|insert|extract|blend)\w*|zip|uzp|trn|ext|tbl",
    "control": r"j\w+|call\w*|ret\w*|b(\.\w+)?|bl|cb\w+|tb\w+",
}

REST = {"SASS": "integer and moves", "PTX": "integer and moves", "CPU": "scalar and other"}

_KINDS = {"SASS": SASS, "PTX": PTX, "CPU": CPU}


def mix(instructions: Mapping[str, int], language: str) -> dict[str, int]:
    """Kind -> occurrences, without those that do not occur. language: "SASS", "PTX" or "CPU". Each counts in the first kind
    that its mnemonic fits."""
    kinds = {kind: re.compile(pattern) for kind, pattern in _KINDS[language].items()}
    found = dict.fromkeys([*kinds, REST[language]], 0)
    for mnemonic, count in instructions.items():
        found[next((kind for kind, pattern in kinds.items() if pattern.match(mnemonic)), REST[language])] += count
    return {kind: count for kind, count in found.items() if count}
