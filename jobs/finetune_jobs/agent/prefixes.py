"""Key/value caches of prompts seen before, so that a long system prompt is computed once.

A cache holds, per layer, keys and values of shape [batch, key/value heads, tokens, head width].
"""

import copy
from collections import deque
from collections.abc import Sequence
from typing import Any


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens from the start are equal."""
    equal = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        equal += 1
    return equal


class Prefixes:
    """The latest few caches, each with the tokens that it stands for."""

    def __init__(self, keep: int = 4) -> None:
        self._kept: deque[tuple[tuple[int, ...], Any]] = deque(maxlen=keep)

    def start(self, tokens: Sequence[int]) -> tuple[int, Any]:
        """(n, a copy of a cache that holds exactly the first n tokens), n < len(tokens); (0, None) if none fits.

        At least one token is left over: a model needs one to go on from.
        """
        limit = len(tokens) - 1
        lengths = [min(common_prefix(tokens, known), limit) for known, _ in self._kept]
        if not lengths or max(lengths) == 0:
            return 0, None
        best = max(lengths)
        cache = copy.deepcopy(self._kept[lengths.index(best)][1])
        cache.crop(best)
        return best, cache

    def remember(self, tokens: Sequence[int], cache: Any) -> None:
        """Keep `cache`, which stands for the first tokens of `tokens`; those that it extends are dropped.

        Only caches that grow by every token can be cut back; those with a window are not kept.
        """
        from transformers.cache_utils import DynamicLayer

        if not all(type(layer) is DynamicLayer for layer in getattr(cache, "layers", [None])):
            return
        known = tuple(tokens[: cache.get_seq_length()])
        for entry in [e for e in self._kept if common_prefix(e[0], known) == len(e[0])]:
            self._kept.remove(entry)
        self._kept.append((known, cache))
