"""Back end over a prompt that a model has already run with its own mask: what SIGMA's prefix search uses.

:class:`~.causal.CausalDecoder` takes a prompt and runs it. Here the model packs, masks and runs the prompt
itself and hands over the filled cache; beams then branch off it as query positions, and the prompt is never
copied per beam. A search over prefixes of any length, its item queries, and more prefixes in chunks::

    decoder = PromptedDecoder(partial(hidden_states, lm), embed, head, cache, readable, position, context)
    beams = search_prefixes(decoder, trie, level_tokens, width, depth, seen, score="level")
    states = states_of(decoder, beams)                       # [B, W, d]; or in chunks: columns=
    any_prefixes = decoder.advance(tokens, zeros, keep=False).hidden   # one code each, behind the prompt
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from recbole_sigma.decoding.causal import PooledCache
from recbole_sigma.decoding.kv import Ancestry, BranchingDecoder, Step

Forward = Callable[[Tensor, Tensor, Tensor, Cache], Tensor]


class PromptedDecoder(BranchingDecoder):
    """Incremental decoder behind a filled cache.

    ``advance(tokens, parents, keep=False)`` reads prefixes without changing anything: the cache is cut back
    after every such call, so its length never grows from chunk to chunk (:attr:`cached` stays the same).

    Args:
        forward: (embeddings float [B, Q, d], position ids int64 [B, Q], may-attend bool [B, Q, S + P + Q],
            cache) -> last hidden states float [B, Q, d]: one pass of the trunk that reads and extends the
            cache, such as :func:`recbole_sigma.language.backbone.hidden_states` bound to a model. The model
            must honour a 4-D mask (sdpa or eager attention).
        embed: vocabulary ids -> input embeddings.
        head: (hidden [B, W, d], vocabulary ids int64 [n] or None) -> logits [B, W, n], over the whole
            vocabulary for None. With ``score="level"`` it is only ever asked for one level's codes.
        cache: the prompt's keys and values, S positions. A :class:`.causal.PooledCache` that the prompt
            was run with is taken over; any other cache is copied once and left alone.
        readable: bool [B, S], the positions that what follows may attend to.
        position: int64 [B], position id of the first token behind the prompt.
        start: float [B, d], the state that the first code is predicted from.
        root_logits: float [B, K_1], logits of the first level's codes instead of ``head(start, ...)``.
        reserve: positions to reserve for keys and values when a buffer is first allocated or must grow.

    Raises:
        UserError: a cache that forgets positions.
    """

    @torch.inference_mode()
    def __init__(
        self,
        forward: Forward,
        embed: Callable[[Tensor], Tensor],
        head: Callable[[Tensor, Tensor | None], Tensor],
        cache: Cache,
        readable: Tensor,
        position: Tensor,
        start: Tensor,
        root_logits: Tensor | None = None,
        reserve: int = 160,
    ) -> None:
        self.forward, self.embed, self.head = forward, embed, head
        self.cache = cache if isinstance(cache, PooledCache) else PooledCache.continuing(cache, reserve)
        self.prompt = self.cached
        if readable.shape != (len(start), self.prompt):
            raise ValueError(
                f"readable {tuple(readable.shape)} must be [{len(start)}, {self.prompt}], the cached prompt"
            )
        self.readable, self.position, self.start, self.root_logits = readable, position, start, root_logits
        self.batch = len(start)
        self.ancestry = Ancestry(self.batch, 0, start.device)
        self.forwarded: list[int] = []
        """Query positions per user of every forward pass so far."""

    @property
    def cached(self) -> int:
        """Positions per user in the cache."""
        return self.cache.layers[0].get_seq_length()

    def first(self) -> Step:
        """What the first code is predicted from, [B, 1, d]: the prompt has been run already."""
        logits = None if self.root_logits is None else self.root_logits[:, None]
        return Step(self.start[:, None], logits)

    @torch.inference_mode()
    def logits(self, step: Step, tokens: Tensor | None = None) -> Tensor:
        """Logits of a step over some vocabulary ids, or over all of them."""
        if step.logits is None:
            return self.head(step.hidden, tokens)
        if tokens is None:
            raise ValueError('root_logits hold one level of codes: search with score="level"')
        return step.logits[..., : len(tokens)]

    def _extend(self, tokens: Tensor, visible: Tensor, query_depth: Tensor, key_depth: Tensor) -> Step:
        self.forwarded.append(tokens.shape[1])
        prompt = self.readable[:, None].expand(-1, tokens.shape[1], -1)
        positions = self.position[:, None] + query_depth - 1
        allowed = torch.cat([prompt, visible], dim=2)
        return Step(self.forward(self.embed(tokens), positions, allowed, self.cache), None)

    def _rewind(self, size: int) -> None:
        self.cache.rewind(self.prompt + size)
