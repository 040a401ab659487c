"""SSR (arXiv 2604.08011): several sparse views of a row's vectors, each with a small dense layer of its own.

A layer with b views costs b d^2 products in place of (b d)^2. What a view reads is either a fixed draw of
input dimensions (SSR-S, ``static``) or a projection of which iterated competition leaves a few (SSR-D,
``ics``). The details that the paper leaves open follow the authors' published code.
"""

from __future__ import annotations

from logging import getLogger
from typing import Any

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import InputType, ModelType
from torch import Tensor, nn

from recbole_sigma.ctr.embedding import FieldEmbedding, feature_fields
from recbole_sigma.models.contract import Contract
from recbole_sigma.settings.label_keys import SsrKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.values import UserError

COVERED = 0.95
"""Least share of a row's dimensions that static filters must read: one that none reads is lost."""
_INPUTS = 100_003  # seeds of two layers stay apart


def static_filter(inputs: int, width: int, views: int, seed: int) -> Tensor:
    """Which input dimensions every view reads: int64 [views, width].

    A view takes the first ``width`` of a permutation of its own, repeated where there are fewer inputs.

    Args:
        inputs: input dimensions.
        width: dimensions of a view.
        views: number of views.
        seed: same seed, same filter.
    """
    drawn = []
    for view in range(views):
        generator = torch.Generator().manual_seed(seed * 1000 + view)
        rounds = [torch.randperm(inputs, generator=generator) for _ in range(-(-width // inputs))]
        drawn.append(torch.cat(rounds)[:width])
    return torch.stack(drawn)


def coverage(index: Tensor, inputs: int) -> float:
    """Share of the input dimensions that a static filter int64 [views, width] reads at all."""
    return len(torch.unique(index)) / inputs


def compete(values: Tensor, strength: Tensor, watched: list[float] | None = None) -> Tensor:
    """Iterated competition: x <- relu(x - alpha_t mean(x)), from relu of the input.

    Args:
        values: float [B, views, width].
        strength: alpha, float [T, views].
        watched: takes the share of dimensions above 0 at the start and after every step; None = no count.

    Returns:
        What is left, float [B, views, width].
    """
    left = values.relu()
    for alpha in (None, *strength):
        if alpha is not None:
            left = torch.relu_(torch.addcmul(left, -alpha[:, None], left.mean(dim=-1, keepdim=True)))
        if watched is not None:
            watched.append(float((left > 0).float().mean()))
    return left


class ViewLinear(nn.Module):
    """One linear layer per view: [B, views, inputs] -> [B, views, outputs]."""

    def __init__(self, views: int, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(views, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(views, outputs)) if bias else None
        for view in self.weight:
            nn.init.xavier_uniform_(view)

    def forward(self, values: Tensor) -> Tensor:
        """See the class."""
        # a batched product over views: [views, B, inputs] @ [views, inputs, outputs]
        out = torch.bmm(values.transpose(0, 1), self.weight).transpose(0, 1)
        return out if self.bias is None else out + self.bias

    def of_one(self, values: Tensor) -> Tensor:
        """All views of one input: [B, inputs] -> [B, views, outputs], as a single product."""
        views, inputs, outputs = self.weight.shape
        out = (values @ self.weight.transpose(0, 1).reshape(inputs, -1)).view(-1, views, outputs)
        return out if self.bias is None else out + self.bias


class StaticView(nn.Module):
    """SSR-S: every view gathers its own input dimensions, then two GELU layers with a residual."""

    index: Tensor

    def __init__(self, inputs: int, views: int, keys: SsrKeys, seed: int) -> None:
        super().__init__()
        self.register_buffer("index", static_filter(inputs, keys.ssr_width, views, seed))
        self.residual = keys.ssr_residual
        layers = 2 if self.residual else 1
        self.layers = nn.ModuleList(ViewLinear(views, keys.ssr_width, keys.ssr_width) for _ in range(layers))

    def forward(self, values: Tensor) -> Tensor:
        """Float [B, inputs] -> [B, views, width]."""
        read_ = values.index_select(1, self.index.flatten()).view(-1, *self.index.shape)
        out = read_
        for layer in self.layers:
            out = F.gelu(layer(out))
        return read_ + out if self.residual else out


class CompetitiveView(nn.Module):
    """SSR-D: every view projects the input, and iterated competition leaves a few dimensions.

    ``ssr_sparsity`` replaces the competition: ``relu`` by none of it, ``topk`` by the largest quarter.
    """

    def __init__(self, inputs: int, views: int, keys: SsrKeys) -> None:
        super().__init__()
        width = keys.ssr_hidden
        self.score = ViewLinear(views, inputs, width)
        self.value = ViewLinear(views, inputs, width) if keys.ssr_value_path else None
        self.dense = ViewLinear(views, width, width) if keys.ssr_dense else None
        steps = keys.ssr_steps if keys.ssr_sparsity == "ics" else 0
        self.alpha = nn.Parameter(
            torch.full((steps, views), keys.ssr_alpha), requires_grad=keys.ssr_learn_alpha
        )
        self.gamma = nn.Parameter(torch.ones(views, width))
        self.kept = max(1, width // 4) if keys.ssr_sparsity == "topk" else 0
        self.active: list[float] = []

    def forward(self, values: Tensor) -> Tensor:
        """Float [B, inputs] -> [B, views, width]; `active` keeps the shares of the last judged batch."""
        score = self.score.of_one(values)
        watched: list[float] | None = None if self.training else []  # counting costs as much as competing
        left = compete(score, self.alpha, watched)
        self.active = watched or self.active
        if self.kept:
            least = left.topk(self.kept, dim=-1).values[..., -1:]
            left = left * (left >= least)
        sparse = left * self.gamma
        if self.value is not None:
            sparse = sparse * self.value.of_one(values)
        return sparse if self.dense is None else sparse + F.gelu(self.dense(sparse))


class SparseLayer(nn.Module):
    """b views of one input, each normalised by itself: their concatenation, or at the end their mean."""

    def __init__(self, inputs: int, views: int, keys: SsrKeys, seed: int, last: bool) -> None:
        super().__init__()
        static = keys.ssr_filter == "static"
        self.width = keys.ssr_width if static else keys.ssr_hidden
        self.view: StaticView | CompetitiveView = (
            StaticView(inputs, views, keys, seed) if static else CompetitiveView(inputs, views, keys)
        )
        self.scale = nn.Parameter(torch.ones(views, self.width))
        self.shift = nn.Parameter(torch.zeros(views, self.width))
        self.last = last
        self.outputs = self.width if last else views * self.width

    def forward(self, values: Tensor) -> Tensor:
        """Float [B, inputs] -> [B, outputs]."""
        # LayerNorm inside a view, with a scale and a shift per view
        out = F.layer_norm(self.view(values), (self.width,)) * self.scale + self.shift
        return out.mean(dim=1) if self.last else out.flatten(1)


class SparseViews(nn.Module):
    """Layers of views and the head: float [B, inputs] -> logits [B].

    Args:
        inputs: input dimensions.
        keys: ``ssr_*``.
        seed: of the static filters.

    Raises:
        UserError: static filters that leave too much of the input unread.
    """

    def __init__(self, inputs: int, keys: SsrKeys, seed: int = 0) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for place, views in enumerate(keys.ssr_views):
            last = place == len(keys.ssr_views) - 1
            layer = SparseLayer(inputs, views, keys, place + _INPUTS * seed, last)
            if isinstance(layer.view, StaticView):
                _check_coverage(layer.view, inputs, place, keys)
            self.layers.append(layer)
            inputs = layer.outputs
        self.dropout = nn.Dropout(keys.ssr_dropout)
        self.head = nn.Sequential(nn.Linear(inputs, keys.ssr_head), nn.ReLU(), nn.Linear(keys.ssr_head, 1))

    def forward(self, values: Tensor) -> Tensor:
        """See the class."""
        for layer in self.layers:
            values = self.dropout(layer(values))
        logits: Tensor = self.head(values).squeeze(-1)
        return logits


def _check_coverage(view: StaticView, inputs: int, place: int, keys: SsrKeys) -> None:
    share = coverage(view.index, inputs)
    getLogger().info(f"SSR layer {place + 1}: static filters read {share:.3f} of {inputs} input dimensions")
    # a later layer's input is redundant: with the published 16 views of 256 it reads 64 % of it
    if place == 0 and share < COVERED and not keys.ssr_any_coverage:
        raise UserError(
            f"ssr_width: the {len(view.index)} static filters of the first layer read {share:.1%} of its "
            f"{inputs} input dimensions, and what none reads is lost: raise ssr_width or ssr_views, or set "
            "ssr_any_coverage: true"
        )


class SSR(Contract, AbstractRecommender):
    """See the module's docstring; keys ``ssr_*`` and ``embedding_size``."""

    type = ModelType.CONTEXT
    input_type = InputType.POINTWISE
    label_scored = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__()
        keys = read(SsrKeys, config)
        self.label = config["LABEL_FIELD"]
        self.fields = FieldEmbedding(dataset, feature_fields(dataset, config), config["embedding_size"])
        inputs = self.fields.count * config["embedding_size"]
        # its running statistics make the score of a row the same alone and in a batch
        self.norm = nn.BatchNorm1d(inputs) if keys.ssr_batch_norm else nn.Identity()
        self.views = SparseViews(inputs, keys, keys.ssr_seed)

    def forward(self, interaction: Any) -> Tensor:
        """Logits of the rows, float [B]."""
        logits: Tensor = self.views(self.norm(self.fields(interaction).flatten(1)))
        return logits

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Cross-entropy of the labels."""
        return F.binary_cross_entropy_with_logits(self(interaction), interaction[self.label])

    def predict(self, interaction: Any) -> Tensor:
        """Probability of the label 1, float [B]."""
        return self(interaction).sigmoid()

    def on_epoch_start(self, epoch: int, train_data: Any) -> None:
        """Say what the competition of the epoch before has left."""
        for place, layer in enumerate(self.views.layers):
            view = layer.view
            if isinstance(view, CompetitiveView) and view.active:
                shares = " ".join(f"{share:.2f}" for share in view.active)
                alpha = view.alpha.detach()
                told = (
                    f"; alpha {float(alpha.min()):.3f} to {float(alpha.max()):.3f}" if alpha.numel() else ""
                )
                getLogger().info(f"SSR layer {place + 1}: active share per step {shares}{told}")
