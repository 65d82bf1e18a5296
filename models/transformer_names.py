"""Names of vision transformers' weights in files of timm and Hugging Face, brought to those used here."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

_TIMM = (
    (r"(cls_token|pos_embed)", r"\1.value"),
    (r"patch_embed\.proj\.(\w+)", r"patch_embed.\1"),
    (r"blocks\.(\d+)\.(norm1|norm2)\.(\w+)", r"blocks_\1_\2.\3"),
    (r"blocks\.(\d+)\.attn\.qkv\.(\w+)", r"blocks_\1_attn_qkv.\2"),
    (r"blocks\.(\d+)\.attn\.proj\.(\w+)", r"blocks_\1_attn_attention_output.\2"),
    (r"blocks\.(\d+)\.mlp\.(fc1|fc2)\.(\w+)", r"blocks_\1_mlp_\2.\3"),
)
_LAYER = r"encoder\.layer\.(\d+)\."
_HUGGING_FACE = (
    (r"embeddings\.cls_token", "cls_token.value"),
    (r"embeddings\.position_embeddings", "pos_embed.value"),
    (r"embeddings\.patch_embeddings\.projection\.(\w+)", r"patch_embed.\1"),
    (_LAYER + r"layernorm_before\.(\w+)", r"blocks_\1_norm1.\2"),
    (_LAYER + r"layernorm_after\.(\w+)", r"blocks_\1_norm2.\2"),
    (_LAYER + r"attention\.attention\.(query|key|value)\.(\w+)", r"blocks_\1_attn_\2.\3"),
    (_LAYER + r"attention\.output\.dense\.(\w+)", r"blocks_\1_attn_attention_output.\2"),
    (_LAYER + r"intermediate\.dense\.(\w+)", r"blocks_\1_mlp_fc1.\2"),
    (_LAYER + r"output\.dense\.(\w+)", r"blocks_\1_mlp_fc2.\2"),
    (r"layernorm\.(\w+)", r"norm.\1"),
    (r"classifier\.(\w+)", r"head.\1"),
)
_NAMES = tuple((re.compile(known), own) for known, own in (*_TIMM, *_HUGGING_FACE))
_MODEL = re.compile(r"^(?:module\.)?(?:vit\.|deit\.)?")
"""What stands before the names: of parallel training, and of the model inside a classifier."""

_FUSED = "_qkv."
_PARTS = ("query", "key", "value")


def of_transformers(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename arrays of vision transformers to `<layer>.<weight>`; other names pass unchanged.

    Args:
        arrays: By name, in PyTorch's layouts. The rows of timm's `qkv` are queries, keys and values.

    Returns:
        The arrays, with queries, keys and values apart.
    """
    found: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        own = _own_name(name)
        if _FUSED in own and array.shape[0] % len(_PARTS) == 0:
            parts = np.split(array, len(_PARTS))
            found |= {own.replace("qkv", part): rows for part, rows in zip(_PARTS, parts, strict=True)}
        else:
            found[own] = array
    return found


def _own_name(name: str) -> str:
    bare = _MODEL.sub("", name, count=1)
    for known, own in _NAMES:
        if match := known.fullmatch(bare):
            return match.expand(own)
    return name
