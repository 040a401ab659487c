"""Constrained beam search over a trie of semantic IDs: every hypothesis is a prefix of a real item, always.

One step scores all children of all beams of all users in one tensor. The beam starts with one root per user
and grows to its width, the last code is never fed back, and a user's seen items are taken out *inside* the
search: a node whose items are all seen is never entered. Every node that is kept therefore leads to an unseen
item, so a beam at least as wide as K returns K unseen items whenever that many exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from recbole_sigma.decoding.kv import Step
from recbole_sigma.decoding.top_k import largest
from recbole_sigma.tokenization.trie import Trie
from recbole_sigma.values import RankedItems, UserError

SCORES = ("vocab", "level", "children")


class Decoder(Protocol):
    """What the search asks of a back end (:class:`~.t5.T5Decoder`, :class:`~.causal.CausalDecoder`)."""

    batch: int

    def first(self) -> Step: ...

    def advance(self, tokens: Tensor, parents: Tensor, keep: bool = True) -> Step: ...

    def force(self, tokens: Tensor) -> Step: ...

    def logits(self, step: Step, tokens: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Beams:
    """The best prefixes of one depth; ``advance(beams.tokens, beams.parents)`` goes one step on.

    Attributes:
        depth: number of codes in the prefixes.
        nodes: int64 [B, W], trie nodes of that depth, -1 where a user has fewer than W.
        scores: float32 [B, W], log-probability of the prefix, descending; ``-inf`` where ``nodes`` is -1.
        tokens: int64 [B, W], vocabulary id of every prefix's last code (any valid id where ``nodes`` is -1).
        parents: int64 [B, W], the beam of the previous depth that each extends.
    """

    depth: int
    nodes: Tensor
    scores: Tensor
    tokens: Tensor
    parents: Tensor


class SeenItems:
    """Per user, the trie nodes under which nothing is left to recommend.

    Args:
        trie: the catalogue.
        rows: int64 [nnz], index into the batch.
        items: int64 [nnz], item ids; repeats, the padding item and items outside the catalogue do no harm.
        batch: number of users.
    """

    def __init__(self, trie: Trie, rows: Tensor, items: Tensor, batch: int) -> None:
        if rows.shape != items.shape or rows.dim() != 1:
            raise ValueError(
                f"seen rows {tuple(rows.shape)} and items {tuple(items.shape)} must be two equal vectors"
            )
        if rows.numel() and (int(rows.min()) < 0 or int(rows.max()) >= batch):
            raise ValueError(f"a seen row index lies outside the batch of {batch} users")
        if items.numel() and int(items.min()) < 0:
            raise ValueError(f"seen item id {int(items.min())} is negative")
        known = items < len(trie.leaf_of_item)
        leaves = trie.leaf_of_item[torch.where(known, items, 0)].long()
        present = known & (leaves >= 0)
        keys = torch.unique(rows[present] * trie.n_items + leaves[present])
        self.trie = trie
        self.rows, self.leaves = keys // trie.n_items, keys % trie.n_items
        self.keys = keys

    def exhausted(self, depth: int) -> tuple[Tensor, Tensor]:
        """All (row, node of ``depth``) pairs whose every item the user has seen, sorted by row and node."""
        nodes = self.trie.node_of_leaf(depth, self.leaves)
        size = self.trie.n_nodes(depth)
        keys, counts = torch.unique_consecutive(self.rows * size + nodes, return_counts=True)
        rows, nodes = keys // size, keys % size
        full = counts == self.trie.leaves(depth, nodes)[1]
        return rows[full], nodes[full]

    def contains(self, rows: Tensor, leaves: Tensor) -> Tensor:
        """Whether each (row, leaf) was seen, bool of their common shape."""
        if not self.keys.numel():
            return torch.zeros(
                torch.broadcast_shapes(rows.shape, leaves.shape), dtype=torch.bool, device=leaves.device
            )
        wanted = rows * self.trie.n_items + leaves
        slot = torch.searchsorted(self.keys, wanted).clamp_max_(self.keys.numel() - 1)
        return self.keys[slot] == wanted


def beam_search(
    decoder: Decoder,
    trie: Trie,
    level_tokens: Sequence[Tensor],
    k: int,
    beam: int,
    seen: tuple[Tensor, Tensor] | None = None,
    score: str = "vocab",
) -> RankedItems:
    """Recommend K items per user by constrained beam search.

    Args:
        decoder: a fresh back end, holding the histories or prompts of B users.
        trie: the catalogue, on the decoder's device.
        level_tokens: per level, int64 [K_l]: the vocabulary id of every code.
        k: list length.
        beam: beam width, at least ``k``.
        seen: (row, item) int64 vectors of what must not be recommended, or None.
        score: ``"vocab"``: a code's log-probability under the softmax over the whole vocabulary, as in
            transformers' ``generate``; ``"level"``: under the softmax over its level's codes; ``"children"``:
            under the softmax over the codes that can follow, as SIGMA's L_NTP is trained.

    Returns:
        lists sorted by score, then item id; empty slots (item 0, ``-inf``) only where a user has fewer than K
        unseen items.

    Raises:
        UserError: a beam narrower than ``k``, or NaN from the model.
    """
    if beam < k:
        raise UserError(f"a beam of {beam} cannot return {k} items: set the beam to at least {k}.")
    with torch.inference_mode():
        hidden = None if seen is None else SeenItems(trie, *seen, decoder.batch)
        beams = search_prefixes(decoder, trie, level_tokens, beam, trie.depth, hidden, score, last=k)
        ranked = _to_items(beams, trie, k)
        verify(ranked[0], trie, hidden)
    # Cloned outside inference mode: callers may write into ordinary tensors only.
    return RankedItems(ranked[0].clone(), ranked[1].clone())


@torch.inference_mode()
def search_prefixes(
    decoder: Decoder,
    trie: Trie,
    level_tokens: Sequence[Tensor],
    beam: int,
    depth: int,
    seen: SeenItems | None = None,
    score: str = "vocab",
    last: int | None = None,
) -> Beams:
    """Find the best prefixes of ``depth`` codes.

    Args:
        decoder: a fresh back end. Afterwards it stands before the last code, which has not been fed.
        trie: the catalogue.
        level_tokens: per level, int64 [K_l] vocabulary ids.
        beam: beam width.
        depth: number of codes, 1 <= depth <= L.
        seen: nodes to stay out of, see :class:`SeenItems`.
        score: see :func:`beam_search`.
        last: number of prefixes to keep at the last step; default ``beam``.

    Returns:
        the prefixes, equal scores ordered by node (at depth L: by item id). A beam that covers all prefixes
        of every depth gives all of them, exactly. :func:`states_of` reads the prefixes' last codes.
    """
    _check_request(trie, level_tokens, beam, depth, score)
    device = trie.item_of_leaf.device
    nodes = torch.zeros(decoder.batch, 1, dtype=torch.int64, device=device)
    scores = torch.zeros(decoder.batch, 1, device=device)
    step = decoder.first()
    for level in range(depth):
        width = last if last is not None and level == depth - 1 else beam
        candidates = candidates_of(decoder, step, trie, level, level_tokens[level], nodes, scores, score)
        if seen is not None:
            hide(candidates, trie, level, nodes, *seen.exhausted(level + 1))
        parents, nodes, scores = _select(candidates, trie, level, nodes, width)
        codes = trie.tokens[level][nodes.clamp_min(0)].long()
        tokens = level_tokens[level][codes]
        if level < depth - 1:
            step = decoder.advance(tokens, parents)
    return Beams(depth, nodes, scores, tokens, parents)


def states_of(decoder: Decoder, beams: Beams, columns: Tensor | None = None) -> Tensor:
    """Read the last code of found prefixes: the states that an item is predicted from.

    Args:
        decoder: the back end that ``beams`` were searched with, as :func:`search_prefixes` left it. It is
            left so, whatever the number of calls.
        beams: what the search found.
        columns: int64 [c], some of the beams (chunks of a certified search); default all.

    Returns:
        hidden states [B, c, d]; meaningless in slots that hold no prefix.
    """
    tokens, parents = beams.tokens, beams.parents
    if columns is not None:
        tokens, parents = tokens[:, columns], parents[:, columns]
    return decoder.advance(tokens, parents, keep=False).hidden


def verify(items: Tensor, trie: Trie, seen: SeenItems | None) -> None:
    """Assert what the search promises: items exist, are unique within their list, and are unseen.

    Raises:
        AssertionError: a defect of this package, never of its input.
    """
    ordered = items.sort(dim=1).values
    if bool(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] > 0)).any()):
        raise AssertionError("constrained decoding returned an item twice in one list")
    rows, columns = (items != 0).nonzero(as_tuple=True)
    found = items[rows, columns]
    inside = (found > 0) & (found < len(trie.leaf_of_item))
    leaves = trie.leaf_of_item[torch.where(inside, found, 0)].long()
    if bool((leaves < 0).any()):
        raise AssertionError("constrained decoding returned an item that does not exist")
    if seen is not None and bool(seen.contains(rows, leaves).any()):
        raise AssertionError("constrained decoding returned a seen item")


@dataclass(frozen=True)
class Candidates:
    """Scores [B, W, C]; child j of beam w is node ``start[b, w] + j``, or ``child[b, w, j]`` if dense."""

    scores: Tensor
    start: Tensor
    child: Tensor | None

    def node(self, flat: Tensor) -> Tensor:
        """Node of flat candidate indices [B, n] into W * C."""
        if self.child is not None:
            return self.child.flatten(1).gather(1, flat).long()
        width = self.scores.shape[2]
        return self.start.gather(1, flat // width) + flat % width


def _check_request(trie: Trie, level_tokens: Sequence[Tensor], beam: int, depth: int, score: str) -> None:
    if score not in SCORES:
        raise UserError(f"score {score!r} is unknown: choose one of {', '.join(SCORES)}.")
    if beam < 1:
        raise UserError(f"a beam must be at least 1 wide, got {beam}.")
    if not 1 <= depth <= trie.depth:
        raise ValueError(f"depth {depth} lies outside the trie's 1..{trie.depth}")
    if len(level_tokens) < depth:
        raise ValueError(f"{len(level_tokens)} levels of tokens were given for a search of depth {depth}")
    for level in range(depth):
        if len(level_tokens[level]) < trie.sizes[level]:
            raise UserError(
                f"level {level + 1} of the trie uses {trie.sizes[level]} codes (an end code included) but "
                f"the model has {len(level_tokens[level])} tokens for it: the model belongs to other "
                "semantic IDs."
            )


def candidates_of(
    decoder: Decoder,
    step: Step,
    trie: Trie,
    level: int,
    tokens: Tensor,
    nodes: Tensor,
    scores: Tensor,
    score: str,
) -> Candidates:
    """Score all children of all beams; ``-inf`` where a slot of the rectangle is no child.

    Args:
        decoder: the back end.
        step: its state at the beams.
        trie: the catalogue.
        level: which level is predicted.
        tokens: int64 [K], vocabulary ids of the level's codes.
        nodes: int64 [B, W], -1 in empty slots.
        scores: float [B, W] of the beams.
        score: see :func:`beam_search`.
    """
    tokens = tokens[: trie.sizes[level]]
    if score == "children":
        return _over_children(decoder.logits(step, tokens).float(), trie, level, nodes, scores)
    if score == "vocab":
        logits = decoder.logits(step).float()
        total = logits.logsumexp(dim=-1)
    else:
        logits = decoder.logits(step, tokens).float()
        total = logits.logsumexp(dim=-1)
    base = (scores - total)[..., None]
    safe = nodes.clamp_min(0)
    start, degree = trie.children(level, safe)
    if trie.dense[level] is not None:
        child = trie.dense[level][safe]
        values = (logits[..., tokens] if score == "vocab" else logits) + base
        return Candidates(values.masked_fill_(child < 0, -torch.inf), start, start[..., None] + child)
    width = int(torch.where(nodes >= 0, degree, 1).max())
    offset = torch.arange(width, device=nodes.device)
    codes = trie.tokens[level][(start[..., None] + offset).clamp_max_(trie.n_nodes(level + 1) - 1)].long()
    values = logits.gather(2, tokens[codes] if score == "vocab" else codes) + base
    return Candidates(values.masked_fill_(offset >= degree[..., None], -torch.inf), start, None)


def _over_children(logits: Tensor, trie: Trie, level: int, nodes: Tensor, scores: Tensor) -> Candidates:
    """Candidates [B, W, C] from logits [B, W, K], normalised over the codes that can follow each node."""
    start, degree = trie.children(level, nodes.clamp_min(0))
    degree = torch.where(nodes >= 0, degree, 0)
    offset = torch.arange(max(int(degree.max()), 1), device=nodes.device)
    child = (start[..., None] + offset).clamp_max_(trie.n_nodes(level + 1) - 1)
    values = logits.gather(2, trie.tokens[level][child].long())
    values = values.masked_fill_(offset >= degree[..., None], -torch.inf)
    total = values.logsumexp(dim=-1)
    base = scores - total.masked_fill_(total == -torch.inf, 0.0)  # nothing below: every child stays -inf
    return Candidates(values + base[..., None].nan_to_num(neginf=0.0), start, None)


def hide(candidates: Candidates, trie: Trie, level: int, nodes: Tensor, rows: Tensor, gone: Tensor) -> None:
    """Take the children ``gone`` (nodes of depth level + 1) of users ``rows`` out of the candidates."""
    if not gone.numel():
        return
    size = trie.n_nodes(level)
    users = torch.arange(len(nodes), device=nodes.device)[:, None]
    held, slot = torch.where(nodes >= 0, users * size + nodes, -1).flatten().sort()
    parents = trie.parent(level + 1, gone)
    wanted = rows * size + parents
    at = torch.searchsorted(held, wanted).clamp_max_(held.numel() - 1)
    inside = held[at] == wanted
    beams, gone, parents = slot[at[inside]], gone[inside], parents[inside]
    if candidates.child is None:
        column = gone - trie.pointers[level][parents].long()
    else:
        column = trie.tokens[level][gone].long()
    candidates.scores.flatten(0, 1)[beams, column] = -torch.inf


def _select(
    candidates: Candidates, trie: Trie, level: int, nodes: Tensor, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The best candidates: parent beam, node, score, each [B, W'], W' being what any user can fill."""
    flat_scores = candidates.scores.flatten(1)

    def tie_key() -> Tensor:
        everyone = torch.arange(flat_scores.shape[1], device=nodes.device).expand(len(nodes), -1)
        return order_key(trie, level + 1, candidates.node(everyone))

    scores, flat = top_with_ties(flat_scores, width, tie_key)
    filled = scores > -torch.inf
    most = max(int(filled.sum(dim=1).max()), 1)
    scores, flat, filled = scores[:, :most], flat[:, :most], filled[:, :most]
    chosen = torch.where(filled, candidates.node(flat), -1)
    return flat // candidates.scores.shape[2], chosen, scores


def order_key(trie: Trie, depth: int, nodes: Tensor) -> Tensor:
    """What equal scores are ordered by: the item id at depth L, the node above it."""
    return trie.item_of_leaf[nodes.clamp_(0, trie.n_items - 1)].long() if depth == trie.depth else nodes


def top_with_ties(scores: Tensor, k: int, tie_key: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """Top k per row by (score descending, key ascending); ``torch.topk`` alone breaks ties arbitrarily.

    Args:
        scores: float [B, M]; ``-inf`` marks what must not be chosen.
        k: how many; rows are cut to min(k, M).
        tie_key: returns the keys [B, M] (or [1, M]); called only when equal scores occur near the top.

    Returns:
        scores and indices, both [B, min(k, M)].

    Raises:
        UserError: NaN among the scores.
    """
    k = min(k, scores.shape[1])
    top, index = largest(scores, min(k + 1, scores.shape[1]))
    if bool(top[:, 0].isnan().any()):
        raise UserError(
            "the model returned NaN scores, so nothing can be ranked: check the training run or the "
            "checkpoint."
        )
    tied = ((top[:, 1:] == top[:, :-1]) & (top[:, 1:] > -torch.inf)).any(dim=1)
    top, index = top[:, :k], index[:, :k]
    if bool(tied.any()):
        rows = tied.nonzero().flatten()
        by_key = tie_key().expand_as(scores)[rows].argsort(dim=1, stable=True)
        by_score = scores[rows].gather(1, by_key).argsort(dim=1, descending=True, stable=True)[:, :k]
        index = index.clone()
        index[rows] = by_key.gather(1, by_score)
        top = scores.gather(1, index)
    return top, index


def _to_items(beams: Beams, trie: Trie, k: int) -> tuple[Tensor, Tensor]:
    filled = beams.nodes >= 0
    items = torch.where(filled, trie.item_of_leaf[beams.nodes.clamp_min(0)].long(), 0)
    short = k - items.shape[1]
    scores = beams.scores
    if short > 0:
        items = torch.nn.functional.pad(items, (0, short))
        scores = torch.nn.functional.pad(scores, (0, short), value=-torch.inf)
    return items, scores
