"""The layers of SORT: over the context of a request once, then over candidates that read it alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sigma.language.transformer import with_cheap_dropout
from recbole_sigma.settings.ranker_keys import SortKeys

_BOS, _SEP = 0, 1
_EPS = 1e-6


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
        with_cheap_dropout(self)

    def context(self, history: Tensor, real: Tensor, profile: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of the context in every layer.

        A layer has keys and values for all of its tokens, and computes those alone that the next one keeps.

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
        mark = torch.full((batch, 1), self.keys.sort_marks, device=real.device)
        about = torch.ones(profile.shape[:2], dtype=torch.bool, device=real.device)
        readable = torch.cat([mark, real, mark, about, mark], dim=1)
        # positions count from the candidates backwards, and BOS stands before the first event, so that
        # padding on the left moves nothing
        place = (torch.arange(states.shape[1], device=real.device) - states.shape[1]).repeat(batch, 1)
        place[:, 0] = -(real.sum(dim=1) + tail + 1)
        turn = turns(place, states.shape[-1] // self.keys.sort_heads)
        allowed = self._allowed(length, tail, real.device)
        found = []
        for number, layer in enumerate(self.layers):
            key, value = layer.read(states, turn)
            found.append((torch.stack([key, value], dim=1), readable))
            if number + 1 == len(self.layers):
                break
            drop = max(states.shape[1] - 1 - tail - self.kept[number + 1], 0)  # the oldest of those left
            mask = allowed[:, None] & readable[:, None, None]
            mask = mask | torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)
            states, readable = without(states, drop), without(readable, drop)
            turn = (without(turn[0], drop, 2), without(turn[1], drop, 2))
            states = layer(states, key, value, turn, without(mask, drop, 2))
            allowed = without(without(allowed, drop), drop, 2)
        return found

    def _allowed(self, length: int, tail: int, device: Any) -> Tensor:
        """Who may read whom in the context: bool [1, S, S]; history tokens read a window and BOS."""
        size = 1 + length + tail
        step = torch.arange(size, device=device)
        causal = step[:, None] >= step
        near = (step[:, None] - step < self.keys.sort_window) | (step == 0)
        inside = (step >= 1) & (step <= length)
        return (causal & (near | ~inside[:, None]))[None]

    def candidates(
        self, context: list[tuple[Tensor, Tensor]], states: Tensor, first: Triple | None = None
    ) -> Tensor:
        """Logits of candidates; each reads the context and itself.

        Args:
            context: of B requests, see `context`.
            states: float [B or 1, C, d].
            first: what the first layer makes of ``states`` (`RequestLayer.heads`), where it is known.

        Returns:
            float [B, C].
        """
        for layer, (pairs, readable) in zip(self.layers, context, strict=True):
            states = layer.alone(states, pairs, readable, first)
            first = None
        return self.head(_Normalised.apply(states, None))[..., 0]


Triple = tuple[Tensor, Tensor, Tensor]


def without(values: Tensor, drop: int, dim: int = 1) -> Tensor:
    """Everything along a dimension but ``drop`` entries behind the first."""
    if not drop:
        return values
    rest = values.shape[dim] - 1 - drop
    return torch.cat([values.narrow(dim, 0, 1), values.narrow(dim, 1 + drop, rest)], dim=dim)


class RequestLayer(nn.Module):
    """x + gate * attention(norm(x)), then x + SwiGLU(norm(x)), of one expert or several."""

    def __init__(self, keys: SortKeys) -> None:
        super().__init__()
        size, self.heads_count = keys.sort_size, keys.sort_heads
        self.normalised = keys.sort_qk_norm
        self.first, self.second = RMSNorm(size), RMSNorm(size)
        self.enter = nn.Linear(size, 3 * size, bias=False)
        self.leave = nn.Linear(size, size, bias=False)
        self.gate = nn.Linear(size, self.heads_count) if keys.sort_gate else None
        self.experts = nn.ModuleList(SwiGLU(size, 8 * size // 3) for _ in range(keys.sort_experts))
        self.router = nn.Linear(size, keys.sort_experts, bias=False) if keys.sort_experts > 1 else None
        self.scale = nn.Parameter(torch.full((self.heads_count, 1, 1), (size // self.heads_count) ** 0.5))
        self.dropout = nn.Dropout(keys.sort_dropout)

    def _split(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.heads_count, -1)).transpose(1, 2)

    def _key(self, key: Tensor) -> Tensor:
        """Keys [B, H, S, w], at a root mean square of one where they are normalised."""
        return _Normalised.apply(key, None) if self.normalised else key

    def _query(self, query: Tensor) -> Tensor:
        """Queries [B, H, Q, w] with what their products are scaled by."""
        if not self.normalised:
            return query * query.shape[-1] ** -0.5
        return _Normalised.apply(query, None) * (self.scale / query.shape[-1])

    def heads(self, normed: Tensor) -> Triple:
        """Queries, keys and values of tokens at position 0, from what `first` made of them.

        Args:
            normed: float [B, Q, d].

        Returns:
            three float [B, H, Q, d / H].
        """
        query, key, value = self.enter(normed).chunk(3, dim=-1)
        return self._query(self._split(query)), self._key(self._split(key)), self._split(value)

    def read(self, states: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Keys and values of context tokens: [B, S, d] -> two [B, H, S, d / H]; positions turn keys."""
        size = states.shape[-1]
        key, value = F.linear(self.first(states), self.enter.weight[size:]).chunk(2, dim=-1)
        return rotated(self._key(self._split(key)), turn), self._split(value)

    def forward(
        self, states: Tensor, key: Tensor, value: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor
    ) -> Tensor:
        """Context tokens through the layer.

        Args:
            states: float [B, Q, d].
            key: float [B, H, S, d / H] of `read`.
            value: of the same shape.
            turn: their positions, see `turns`.
            mask: bool [B, 1, Q, S], who may read whom.

        Returns:
            float [B, Q, d].
        """
        normed = self.first(states)
        query = F.linear(normed, self.enter.weight[: states.shape[-1]])
        query = rotated(self._query(self._split(query)), turn)
        weights = (query @ key.transpose(2, 3)).masked_fill(~mask, -1e9).softmax(dim=-1)
        return self._end(states, normed, weights @ value)

    def _end(self, states: Tensor, normed: Tensor, mixed: Tensor) -> Tensor:
        """The layer behind its attention: mixed values [B, H, Q, d / H] -> states [B, Q, d]."""
        if self.gate is not None:  # one gate per head
            mixed = mixed * self.gate(normed).sigmoid().transpose(1, 2)[..., None]
        states = states + self.dropout(self.leave(mixed.transpose(1, 2).flatten(2)))
        return states + self.dropout(self._feed_forward(self.second(states)))

    def _feed_forward(self, states: Tensor) -> Tensor:
        """Each token through the expert that its router likes best, times the router's probability."""
        if self.router is None:
            return self.experts[0](states)
        flat = states.flatten(0, 1)
        share, chosen = self.router(flat).softmax(dim=-1).max(dim=-1)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            own = (chosen == number).nonzero()[:, 0]
            out = out.index_add(0, own, expert(flat[own]) * share[own, None])
        return out.view_as(states)

    def alone(self, states: Tensor, pairs: Tensor, readable: Tensor, own: Triple | None = None) -> Tensor:
        """Candidates [B or 1, C, d], each with the context and itself; all stand at position 0."""
        normed = self.first(states)
        query, own_key, own_value = self.heads(normed) if own is None else own
        key, value = F.pad(pairs, (0, 0, 0, 1)).unbind(1)  # the last place is the candidate's own
        scores = query @ key.transpose(2, 3)
        scores[..., -1] = (query * own_key).sum(dim=-1)
        if readable.device.type != "cpu" or not bool(readable.all()):  # an accelerator would wait for it
            scores = scores.masked_fill(~F.pad(readable, (0, 1), value=True)[:, None, None], -1e9)
        weights = scores.softmax(dim=-1)  # [B, H, C, S + 1]
        return self._end(states, normed, torch.addcmul(weights @ value, weights[..., -1:], own_value))


class SwiGLU(nn.Module):
    """down(silu(a) * b), where (a, b) = up(x) (arXiv 2002.05202)."""

    def __init__(self, size: int, inner: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(size, 2 * inner, bias=False), nn.Linear(inner, size, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """float [..., d] -> [..., d]."""
        gate, value = self.up(states).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


class RMSNorm(nn.Module):
    """x / rms(x), times a weight per dimension (arXiv 1910.07467), in half the passes of torch's on a CPU."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, states: Tensor) -> Tensor:
        """float [..., d] -> [..., d]."""
        return _Normalised.apply(states, self.weight)


class _Normalised(torch.autograd.Function):
    """x / rms(x), times a weight where one is given."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor | None) -> Tensor:
        square = torch.linalg.vector_norm(states, dim=-1, keepdim=True).square()
        factor = square.div_(states.shape[-1]).add_(_EPS).rsqrt_()
        unit = states * factor
        ctx.save_for_backward(unit, factor, weight)
        return unit if weight is None else unit * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]
        unit, factor, weight = ctx.saved_tensors
        weighted = None
        if weight is not None:
            weighted = (grad * unit).flatten(0, -2).sum(dim=0)
            grad = grad * weight
        mean = (grad * unit).mean(dim=-1, keepdim=True)
        return torch.addcmul(grad, unit, mean, value=-1.0).mul_(factor), weighted


def turns(place: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of rotary positions (arXiv 2104.09864): int64 [B, S] -> two [B, 1, S, width / 2]."""
    half = width // 2
    speed = 10_000.0 ** (-torch.arange(half, device=place.device) / half)
    angle = place[:, None, :, None] * speed
    return angle.cos(), angle.sin()


def rotated(values: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """float [B, H, S, w] turned by `turns` of their positions."""
    half, (cos, sin) = values.shape[-1] // 2, turn
    left, right = values[..., :half], values[..., half:]
    return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=-1)
