"""Beams behind prompts of a causal language model: the prompt runs once per user, whatever the number of
beams.

Beams are query positions behind the prompt, all beams of a step with the same position ids, and a 4-D mask
lets every beam see the prompt, its ancestors and itself. The model's own forward does the rest, so whatever
it is (grouped queries, rotary positions, LoRA, soft-capped logits) stays exact. SIGMA packs and runs its
prompts itself and then stands a `CausalDecoder` behind them; `prompts.read_prompts` does the same for token
prompts of any transformers causal LM.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recbole_sigma.decoding.kv import Ancestry, BranchingDecoder, Step
from recbole_sigma.language.transformer import KeyValues

Forward = Callable[[Tensor, Tensor, Tensor, KeyValues], "Tensor | Step"]


class CausalDecoder(BranchingDecoder):
    """Incremental decoder behind a filled cache.

    ``advance(tokens, parents, keep=False)`` reads prefixes without changing anything: the cache is cut back
    after every such call, so its length never grows from chunk to chunk (:attr:`cached` stays the same).

    Args:
        forward: (embeddings float [B, Q, d], position ids int64 [B, Q], may-attend bool [B, Q, S + P + Q],
            cache) -> last hidden states float [B, Q, d], or a `Step` that holds the logits too: one pass of
            the trunk that reads and extends the cache. The model must honour a 4-D mask (sdpa or eager
            attention).
        embed: vocabulary ids -> input embeddings.
        head: (step, vocabulary ids int64 [n] or None) -> logits [B, W, n], over the whole vocabulary for
            None.
        cache: the prompt's keys and values, S positions: `KeyValues` or a `PooledCache`. It is extended and
            cut back in place; hand in ``cache.continuing(...)`` to keep the prompt's own as it is.
        readable: bool [B, S], the positions that what follows may attend to.
        position: int64 [B], position id of the first token behind the prompt.
        start: what the first code is predicted from, hidden [B, 1, d].
    """

    @torch.inference_mode()
    def __init__(
        self,
        forward: Forward,
        embed: Callable[[Tensor], Tensor],
        head: Callable[[Step, Tensor | None], Tensor],
        cache: KeyValues,
        readable: Tensor,
        position: Tensor,
        start: Step,
    ) -> None:
        self.forward, self.embed, self.head, self.start = forward, embed, head, start
        self.cache = cache
        self.prompt = self.cached
        self.batch = len(position)
        if readable.shape != (self.batch, self.prompt):
            raise ValueError(
                f"readable {tuple(readable.shape)} must be [{self.batch}, {self.prompt}], the cached prompt"
            )
        self.readable, self.position = readable, position
        self.ancestry = Ancestry(self.batch, 0, position.device)
        self.forwarded: list[int] = []
        """Query positions per user of every forward pass so far."""

    @property
    def cached(self) -> int:
        """Positions per user in the cache."""
        return self.cache.length

    def first(self) -> Step:
        """What the first code is predicted from: the prompt has been run already."""
        return self.start

    @torch.inference_mode()
    def logits(self, step: Step, tokens: Tensor | None = None) -> Tensor:
        """Logits of a step over some vocabulary ids, or over all of them."""
        return self.head(step, tokens)

    def _extend(self, tokens: Tensor, visible: Tensor, query_depth: Tensor, key_depth: Tensor) -> Step:
        self.forwarded.append(tokens.shape[1])
        prompt = self.readable[:, None].expand(-1, tokens.shape[1], -1)
        positions = self.position[:, None] + query_depth - 1
        allowed = torch.cat([prompt, visible.expand(self.batch, -1, -1)], dim=2)
        found = self.forward(self.embed(tokens), positions, allowed, self.cache)
        return found if isinstance(found, Step) else Step(found, None)

    def _rewind(self, size: int) -> None:
        self.cache.rewind(self.prompt + size)
