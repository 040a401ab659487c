"""Exact rankings to judge a beam by: teacher-forced scores of all items, and a certified search.

Both are slow next to a beam and meant for tests, small catalogues and samples of users (``prefix_survival``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recbole_sigma.decoding.beam import (
    Decoder,
    SeenItems,
    candidates_of,
    hide,
    order_key,
    top_with_ties,
    verify,
)
from recbole_sigma.decoding.kv import Step
from recbole_sigma.tokenization.trie import Trie
from recbole_sigma.values import RankedItems

_SLACK = 1e-3
"""Room for rounding between a beam's scores and those computed here; it only widens the search."""


def score_items(
    decoder: Decoder, trie: Trie, level_tokens: Sequence[Tensor], score: str = "vocab", chunk: int = 64
) -> Tensor:
    """Log-probability of every item by teacher forcing its whole code.

    Args:
        decoder: a fresh back end over B users.
        trie: the catalogue.
        level_tokens: per level, int64 [K_l] vocabulary ids.
        score: ``"vocab"`` or ``"level"``, see :func:`recbole_sigma.decoding.beam.beam_search`.
        chunk: items per user and forward pass.

    Returns:
        float32 [B, N]; ``-inf`` for ids that are not in the catalogue (column 0 among them).
    """
    everyone = trie.item_of_leaf.long()
    result = torch.full((decoder.batch, len(trie.leaf_of_item)), -torch.inf, device=everyone.device)
    result[:, everyone] = score_candidates(
        decoder, trie, level_tokens, everyone.expand(decoder.batch, -1), score, chunk
    )
    return result


def score_candidates(
    decoder: Decoder,
    trie: Trie,
    level_tokens: Sequence[Tensor],
    items: Tensor,
    score: str = "vocab",
    chunk: int = 64,
) -> Tensor:
    """Log-probability of each user's own candidates by teacher forcing their whole codes.

    Args:
        decoder: a fresh back end over B users.
        trie: the catalogue.
        level_tokens: per level, int64 [K_l] vocabulary ids.
        items: int64 [B, M], item ids; repeats do no harm.
        score: ``"vocab"`` or ``"level"``, see :func:`recbole_sigma.decoding.beam.beam_search`.
        chunk: candidates per user and forward pass.

    Returns:
        float32 [B, M]; ``-inf`` for ids that are not in the catalogue (0, the padding item, among them).
    """
    with torch.inference_mode():
        known = (items > 0) & (items < len(trie.leaf_of_item))
        leaves = trie.leaf_of_item[torch.where(known, items, 0)].long()
        known &= leaves >= 0
        codes = trie.codes_of(trie.depth, leaves.clamp_min(0))
        tokens = torch.stack([level_tokens[level][codes[..., level]] for level in range(trie.depth)], dim=2)
        first = _log_probs(decoder, decoder.first(), level_tokens[0][: trie.sizes[0]], score)[:, 0]
        total = first.gather(1, codes[..., 0])
        for start in range(0, items.shape[1] if trie.depth > 1 else 0, chunk):
            part = slice(start, start + chunk)
            forced = decoder.force(tokens[:, part, :-1])
            for level in range(1, trie.depth):
                step = Step(forced.hidden[:, :, level - 1], _at(forced.logits, level - 1))
                table = _log_probs(decoder, step, level_tokens[level][: trie.sizes[level]], score)
                total[:, part] += table.gather(2, codes[:, part, level, None])[..., 0]
        total = total.masked_fill(~known, -torch.inf)
    return total.clone()


def exact_top_k(
    decoder: Decoder,
    trie: Trie,
    level_tokens: Sequence[Tensor],
    k: int,
    bound: Tensor,
    seen: tuple[Tensor, Tensor] | None = None,
    score: str = "vocab",
    chunk: int = 64,
) -> RankedItems:
    """The true best K items per user, by following every prefix that could still lead to one of them.

    A code's log-probability is never positive, so no item scores above its prefix: a prefix below a score
    that K items are known to reach can be dropped with certainty. A peaked (trained) model leaves few
    prefixes; a flat one leaves all.

    Args:
        decoder: a fresh back end over B users.
        trie: the catalogue.
        level_tokens: per level, int64 [K_l] vocabulary ids.
        k: list length.
        bound: float [B], a score that at least K items reach, such as the K-th score of
            :func:`.beam.beam_search`; ``-inf`` prunes nothing.
        seen: (row, item) int64 vectors of what must not be recommended, or None.
        score: ``"vocab"`` or ``"level"``.
        chunk: prefixes per user and forward pass.

    Returns:
        the exact lists, with the tie and padding rules of the beam search.
    """
    with torch.inference_mode():
        hidden = None if seen is None else SeenItems(trie, *seen, decoder.batch)
        found, scores = exact_prefixes(decoder, trie, level_tokens, trie.depth, bound, hidden, score, chunk)
        scores, order = top_with_ties(scores, k, lambda: order_key(trie, trie.depth, found.clone()))
        nodes = found.gather(1, order)
        device = nodes.device
        items = torch.zeros(decoder.batch, k, dtype=torch.int64, device=device)
        values = torch.full((decoder.batch, k), -torch.inf, device=device)
        items[:, : nodes.shape[1]] = torch.where(nodes >= 0, trie.item_of_leaf[nodes.clamp_min(0)].long(), 0)
        values[:, : nodes.shape[1]] = scores
        verify(items, trie, hidden)
    return RankedItems(items.clone(), values.clone())


@torch.inference_mode()
def exact_prefixes(
    decoder: Decoder,
    trie: Trie,
    level_tokens: Sequence[Tensor],
    depth: int,
    bound: Tensor,
    seen: SeenItems | None = None,
    score: str = "vocab",
    chunk: int = 64,
) -> tuple[Tensor, Tensor]:
    """All prefixes of ``depth`` codes whose log-probability reaches a bound, by the argument above.

    No item scores above its prefix, so with the K-th item score of any search as the bound these are the
    only prefixes that the exact list can come from, whatever scores the items inside them.

    Args:
        decoder: a fresh back end over B users; left before the first code.
        trie: the catalogue.
        level_tokens: per level, int64 [K_l] vocabulary ids.
        depth: number of codes, 1 <= depth <= L.
        bound: float [B]; ``-inf`` prunes nothing.
        seen: nodes to stay out of, or None.
        score: ``"vocab"`` or ``"level"``.
        chunk: prefixes per user and forward pass.

    Returns:
        trie nodes int64 [B, W] (-1 in empty slots) and scores float32 [B, W], best first.
    """
    floor = (bound.to(torch.float32) - _SLACK)[:, None]
    device = trie.item_of_leaf.device
    nodes = torch.zeros(decoder.batch, 1, dtype=torch.int64, device=device)
    scores = torch.zeros(decoder.batch, 1, device=device)
    first = decoder.first()
    for level in range(depth):
        gone = None if seen is None else seen.exhausted(level + 1)
        found: list[tuple[Tensor, Tensor]] = []
        for start in range(0, nodes.shape[1], chunk):
            part, part_scores = nodes[:, start : start + chunk], scores[:, start : start + chunk]
            step = first if level == 0 else _forced(decoder, trie, level, part, level_tokens)
            candidates = candidates_of(
                decoder, step, trie, level, level_tokens[level], part, part_scores, score
            )
            if gone is not None:
                hide(candidates, trie, level, part, *gone)
            flat = candidates.scores.flatten(1)
            keep = (flat >= floor) & (flat > -torch.inf)
            width = max(int(keep.sum(1).max()), 1)
            index = keep.int().argsort(dim=1, descending=True, stable=True)[:, :width]
            kept = keep.gather(1, index)
            found.append(
                (
                    torch.where(kept, candidates.node(index), -1),
                    flat.gather(1, index).masked_fill(~kept, -torch.inf),
                )
            )
        nodes = torch.cat([n for n, _ in found], dim=1)
        scores = torch.cat([s for _, s in found], dim=1)
        # Left-justify, so that users with few survivors do not stretch the next level.
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        width = max(int((scores > -torch.inf).sum(dim=1).max()), 1)
        scores, nodes = scores[:, :width], nodes.gather(1, order)[:, :width]
    return nodes, scores


def prefix_survival(exact: RankedItems, kept: RankedItems) -> Tensor:
    """Share of each user's exact list that another search also returned.

    Args:
        exact: the true lists [B, K].
        kept: what the beam returned [B, K'].

    Returns:
        float32 [B] in 0..1; 1 for a user whose exact list is empty.
    """
    real = exact.items > 0
    hit = (exact.items[:, :, None] == kept.items[:, None, :]).any(dim=2) & real
    return torch.where(real.any(dim=1), hit.sum(dim=1) / real.sum(dim=1).clamp_min(1), 1.0)


def _forced(decoder: Decoder, trie: Trie, depth: int, nodes: Tensor, level_tokens: Sequence[Tensor]) -> Step:
    codes = trie.codes_of(depth, nodes.clamp_min(0))
    tokens = torch.stack([level_tokens[level][codes[..., level]] for level in range(depth)], dim=-1)
    step = decoder.force(tokens)
    return Step(step.hidden[:, :, -1], _at(step.logits, -1))


def _at(logits: Tensor | None, position: int) -> Tensor | None:
    return None if logits is None else logits[:, :, position]


def _log_probs(decoder: Decoder, step: Step, tokens: Tensor, score: str) -> Tensor:
    if score == "level":
        return decoder.logits(step, tokens).float().log_softmax(dim=-1)
    return decoder.logits(step).float().log_softmax(dim=-1)[..., tokens]
