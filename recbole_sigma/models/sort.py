"""SORT (arXiv 2603.03988): one transformer ranks all candidates of a request at once.

A request is one sequence, [BOS; history; SEP; profile; SEP; candidates]. All candidates stand at one position
and see the context and themselves, never each other, so a candidate's score is the same in any company, and
the context is computed once for all of them. Before the feed-forward comes attention over a local window
(history tokens) or the whole context (the tokens behind it, the candidates); each layer drops the oldest
history tokens. Norms are RMSNorm, positions rotary, queries and keys normalised, the attention output gated.

A request here is built from one positive and sampled negatives; an impression log would bring its own. Item
vectors may come from another model and stay as they are (`sort_items_from`, `sort_freeze`): the two stages of
GPSD (arXiv 2506.03699). No mixture of experts.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import FeatureType, InputType
from torch import Tensor, nn

from recbole_sigma.data.dataset import PrefixDataset, item_names
from recbole_sigma.grounding.vector_file import read_item_vectors
from recbole_sigma.models.bsarec import left_padded
from recbole_sigma.models.contract import Contract
from recbole_sigma.models.losses import with_negatives
from recbole_sigma.models.packed import PackedModel
from recbole_sigma.settings.ranker_keys import SortKeys
from recbole_sigma.settings.reader import read

CANDIDATES = 512  # scored at a time while a whole catalogue is ranked
_ROWS = 64  # requests at a time
_BOS, _SEP = 0, 1


class SORTDataset(PrefixDataset):
    """The dataset RecBole picks for the model named SORT: every prefix is a request."""


class SORT(PackedModel, SequentialRecommender):
    """See the module's docstring; keys ``sort_*``."""

    input_type = InputType.POINTWISE
    known: Tensor | None
    loss_names = ("rank",)
    prediction_count = Contract.prediction_count  # one per request
    step_shapes = Contract.step_shapes

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.keys = keys = read(SortKeys, config)
        self.profiles = Profiles(dataset, keys.sort_profile, keys.sort_size)
        if keys.sort_items_from is None:
            self.items = nn.Embedding(self.n_items, keys.sort_size, padding_idx=0)
            nn.init.normal_(self.items.weight, std=0.02)
            self.register_buffer("known", None, persistent=False)
        else:
            table, known = read_item_vectors(keys.sort_items_from, item_names(dataset), "sort_items_from")
            self.items = nn.Embedding.from_pretrained(table, freeze=keys.sort_freeze, padding_idx=0)
            self.register_buffer("known", known, persistent=False)
        self.unknown = nn.Parameter(torch.zeros(self.items.weight.shape[1]))
        self.enter = nn.Linear(self.items.weight.shape[1], keys.sort_size)
        self.network = RequestTransformer(keys, self.max_seq_length)

    def item_tokens(self, items: Tensor) -> Tensor:
        """Tokens of items [...]: float [..., d]. Items that the loaded table lacks share one vector."""
        vectors = self.items(items)
        if self.known is not None:
            vectors = torch.where(self.known[items][..., None], vectors, self.unknown)
        return F.rms_norm(self.enter(vectors), (self.keys.sort_size,))

    def context(self, interaction: Any) -> list[tuple[Tensor, Tensor]]:
        """What candidates of B requests read in every layer; see `RequestTransformer.context`."""
        history, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        history = left_padded(history, length, history.shape[1])
        return self.network.context(
            self.item_tokens(history), history > 0, self.profiles(interaction[self.USER_ID])
        )

    def score(self, interaction: Any, items: Tensor) -> Tensor:
        """Logits of candidates: int64 [B, C] -> float [B, C]."""
        return self.network.candidates(self.context(interaction), self.item_tokens(items))

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Of one positive and uniform negatives per request: a softmax over them, or a logistic loss."""
        target = interaction[self.ITEM_ID]
        asked = with_negatives(target, self.keys.sort_negatives, self.n_items)
        logits = self.score(interaction, asked)
        if self.keys.sort_loss == "softmax":
            return F.cross_entropy(logits, torch.zeros_like(target))
        return -(F.logsigmoid(logits[:, 0]) + F.logsigmoid(-logits[:, 1:]).mean(dim=1)).mean()

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Scores of all items, float [B, N]: the context once, then block after block of candidates."""
        every = torch.arange(self.n_items, device=interaction[self.ITEM_SEQ].device)
        tokens, out = self.item_tokens(every), []
        for begin in range(0, len(interaction), _ROWS):
            context = self.context(interaction[begin : begin + _ROWS])
            rows = len(context[0][0])
            blocks = (part.expand(rows, -1, -1) for part in tokens.split(CANDIDATES))
            out.append(torch.cat([self.network.candidates(context, part) for part in blocks], dim=1))
        return torch.cat(out)

    def predict(self, interaction: Any) -> Tensor:
        """Scores of one item per request, float [B]."""
        return self.score(interaction, interaction[self.ITEM_ID][:, None])[:, 0]


class Profiles(nn.Module):
    """One token per column of the users: float [B, P, d].

    Args:
        dataset: the train part.
        columns: text columns of ``.user`` that are loaded; others are left out.
        size: d.
    """

    def __init__(self, dataset: Any, columns: tuple[str, ...], size: int) -> None:
        super().__init__()
        users = dataset.user_feat
        kinds = dataset.field2type
        self.columns = [
            c for c in columns if users is not None and c in users and kinds[c] == FeatureType.TOKEN
        ]
        self.tables = nn.ModuleList(nn.Embedding(dataset.num(c), size) for c in self.columns)
        for column in self.columns:
            self.register_buffer(f"of_{column}", users[column].clone(), persistent=False)
        self.size = size

    def forward(self, users: Tensor) -> Tensor:
        """See the class; ``users`` int64 [B]."""
        parts = [
            table(self.get_buffer(f"of_{c}")[users])
            for c, table in zip(self.columns, self.tables, strict=True)
        ]
        if not parts:
            return torch.zeros(len(users), 0, self.size, device=users.device)
        return torch.stack(parts, dim=1)


def kept(length: int, least: int, layers: int) -> list[int]:
    """History tokens that each layer computes: from all of them down to ``least``, evenly.

    Args:
        length: history tokens of the longest row.
        least: those of the last layer.
        layers: number of layers.
    """
    last = min(least, length)
    return [length - round((length - last) * layer / max(layers - 1, 1)) for layer in range(layers)]


class RequestTransformer(nn.Module):
    """The layers, first over the context, then over candidates that read it.

    Args:
        keys: ``sort_*``.
        longest: history tokens of the longest row; what a layer drops follows from it, not from the batch.
    """

    def __init__(self, keys: SortKeys, longest: int) -> None:
        super().__init__()
        self.keys, self.kept = keys, kept(longest, keys.sort_keep, keys.sort_layers)
        self.marks = nn.Embedding(2, keys.sort_size)
        nn.init.normal_(self.marks.weight, std=0.02)
        self.layers = nn.ModuleList(RequestLayer(keys) for _ in range(keys.sort_layers))
        self.head = nn.Sequential(
            nn.Linear(keys.sort_size, 4 * keys.sort_size), nn.ReLU(), nn.Linear(4 * keys.sort_size, 1)
        )

    def context(self, history: Tensor, real: Tensor, profile: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of the context in every layer.

        Args:
            history: float [B, T, d], left-padded.
            real: bool [B, T].
            profile: float [B, P, d].

        Returns:
            per layer (keys and values [B, 2, H, S, d / H], readable bool [B, S]).
        """
        batch, length, _ = history.shape
        begin, sep = (self.marks.weight[mark].expand(batch, 1, -1) for mark in (_BOS, _SEP))
        states = torch.cat([begin, history, sep, profile, sep], dim=1)
        tail = states.shape[1] - 1 - length  # tokens behind the history
        always = torch.ones(batch, 1, dtype=torch.bool, device=real.device)
        readable = torch.cat([always, real, always.expand(-1, tail)], dim=1)
        # positions count from the candidates backwards, and BOS stands before the first event, so that
        # padding on the left moves nothing
        place = (torch.arange(states.shape[1], device=real.device) - states.shape[1]).repeat(batch, 1)
        place[:, 0] = -(real.sum(dim=1) + tail + 1)
        allowed = self._allowed(length, tail, real.device)
        found = []
        for layer, size in zip(self.layers, self.kept, strict=True):
            dropped = max(states.shape[1] - 1 - tail - size, 0)  # the oldest of those that are left
            own = [0, *range(1 + dropped, states.shape[1])]
            states, readable, place = states[:, own], readable[:, own], place[:, own]
            allowed = allowed[own][:, own]
            mask = allowed & readable[:, None] | torch.eye(len(own), dtype=torch.bool, device=real.device)
            states, pairs = layer(states, place, mask[:, None])
            found.append((pairs, readable))
        return found

    def _allowed(self, length: int, tail: int, device: Any) -> Tensor:
        """Who may read whom in the context: bool [S, S]; history tokens read a window and BOS."""
        size = 1 + length + tail
        step = torch.arange(size, device=device)
        causal = step[:, None] >= step
        near = (step[:, None] - step < self.keys.sort_window) | (step == 0)
        inside = (step >= 1) & (step <= length)
        return causal & (near | ~inside[:, None])

    def candidates(self, context: list[tuple[Tensor, Tensor]], states: Tensor) -> Tensor:
        """Logits of candidates: float [B, C, d] -> [B, C]; each reads the context and itself."""
        for layer, (pairs, readable) in zip(self.layers, context, strict=True):
            states = layer.alone(states, pairs, readable)
        return self.head(F.rms_norm(states, states.shape[-1:]))[..., 0]


class RequestLayer(nn.Module):
    """x + gate * attention(norm(x)), then x + SwiGLU(norm(x))."""

    def __init__(self, keys: SortKeys) -> None:
        super().__init__()
        size, self.heads = keys.sort_size, keys.sort_heads
        self.normalised = keys.sort_qk_norm
        self.first, self.second = nn.RMSNorm(size), nn.RMSNorm(size)
        self.enter = nn.Linear(size, 3 * size, bias=False)
        self.leave = nn.Linear(size, size, bias=False)
        self.gate = nn.Linear(size, self.heads) if keys.sort_gate else None
        inner = 8 * size // 3
        self.up, self.down = nn.Linear(size, 2 * inner, bias=False), nn.Linear(inner, size, bias=False)
        self.scale = nn.Parameter(torch.full((self.heads, 1, 1), (size // self.heads) ** 0.5))
        self.dropout = nn.Dropout(keys.sort_dropout)

    def _heads(self, states: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, H, Q, d / H]; positions turn queries and keys."""
        query, key, value = self.enter(self.first(states)).chunk(3, dim=-1)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value)
        )
        if self.normalised:
            query, key = F.normalize(query, dim=-1) * self.scale, F.normalize(key, dim=-1)
        else:
            query = query * query.shape[-1] ** -0.5
        return rotated(query, place), rotated(key, place), value

    def _end(self, states: Tensor, mixed: Tensor) -> Tensor:
        """The layer behind its attention: mixed values [B, H, Q, d / H] -> states [B, Q, d]."""
        if self.gate is not None:  # one gate per head
            mixed = mixed * self.gate(self.first(states)).sigmoid().transpose(1, 2)[..., None]
        states = states + self.dropout(self.leave(mixed.transpose(1, 2).flatten(2)))
        gate, value = self.up(self.second(states)).chunk(2, dim=-1)
        return states + self.dropout(self.down(F.silu(gate) * value))

    def forward(self, states: Tensor, place: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Context tokens: states [B, S, d], and the keys and values that candidates read."""
        query, key, value = self._heads(states, place)
        weights = (query @ key.transpose(2, 3)).masked_fill(~mask, -1e9).softmax(dim=-1)
        return self._end(states, weights @ value), torch.stack([key, value], dim=1)

    def alone(self, states: Tensor, pairs: Tensor, readable: Tensor) -> Tensor:
        """Candidates [B, C, d], each with the context and itself; all stand at position 0."""
        query, own_key, own_value = self._heads(states, states.new_zeros(1, states.shape[1]))
        key, value = pairs.unbind(1)
        context = (query @ key.transpose(2, 3)).masked_fill(~readable[:, None, None], -1e9)
        itself = (query * own_key).sum(dim=-1, keepdim=True)
        weights = torch.cat([context, itself], dim=-1).softmax(dim=-1)  # [B, H, C, S + 1]
        mixed = weights[..., :-1] @ value + weights[..., -1:] * own_value
        return self._end(states, mixed)


def rotated(values: Tensor, place: Tensor) -> Tensor:
    """Rotary positions (arXiv 2104.09864): float [B, H, Q, w] turned by ``place`` [B or 1, Q]."""
    half = values.shape[-1] // 2
    speed = 10_000.0 ** (-torch.arange(half, device=values.device) / half)
    angle = place[:, None, :, None] * speed
    left, right = values[..., :half], values[..., half:]
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=-1)
