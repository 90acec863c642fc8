"""Attention of one new token on a CPU: transformers' own, without a copy of the keys and values for each query head.

Where heads share keys and values (grouped-query attention), transformers repeats them for each head, and with a padded
batch it must: that copy, and a matrix-vector product a head, take most of a step on a CPU. The heads of a group stand
here as that many queries of one head. (torch's `enable_gqa` repeats inside, on a CPU.)
"""

from typing import Any

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

NAME = "sdpa_groups"


def register() -> str:
    """The name to give to `set_attn_implementation`."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def attention(  # noqa: PLR0917 - transformers calls it so
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """query (rows, heads, new tokens, width), key and value (rows, groups, tokens, width), mask of `sdpa_mask`.

    Returns (rows, new tokens, heads, width).
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    rows, heads, new, width = query.shape
    if new > 1:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **more
        )
        return found
    grouped = query.view(rows, key.shape[1], heads // key.shape[1], width)
    answer = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return answer.view(rows, 1, heads, width), None
