"""BSARec (Shin et al. 2024, arXiv 2312.10325) as published: one prefix per row, full cross-entropy.

Its low-pass mixes all positions of a row, so a loss at every position of a packed row would see the future.
A training row here is one prefix, and the loss reads the last position. Positions are counted from the end:
rows are padded on the left, and padding takes part in the filter, as in the authors' code.

Two forms are ours. With ``bsarec_padding: False`` (BSARec-events) the states of padding are zero: the
weights by age are those of the published filter, and short rows cost what their events cost. BSARec-causal
is for packed rows (``sasrec_low_pass`` of PackedSASRec).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_sigma.data.dataset import PrefixDataset
from recbole_sigma.models.contract import Contract
from recbole_sigma.models.low_pass import FilterBlock, slow_waves
from recbole_sigma.models.packed import (
    NARROWEST_PREFIXES,
    PackedBatch,
    PackedModel,
    fuse_layers,
    length_groups,
)
from recbole_sigma.models.sampled_softmax import item_cross_entropy, sampler_of
from recbole_sigma.settings.baseline_keys import BsarecKeys
from recbole_sigma.settings.reader import read


class BSARecDataset(PrefixDataset):
    """The dataset RecBole picks for the model named BSARec."""


class BSARec(PackedModel, SequentialRecommender):
    """See the module's docstring; keys ``bsarec_alpha``, ``bsarec_cutoff`` and those of the transformer."""

    input_type = InputType.POINTWISE
    loss_names = ("softmax",)
    averages_scores = True
    optimizer_groups = Contract.optimizer_groups  # type: ignore[assignment]  # decays all weights, as published
    prediction_count = Contract.prediction_count  # one per row

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        keys, size = read(BsarecKeys, config), config["hidden_size"]
        self.negatives, self.padding = sampler_of(config, dataset), keys.bsarec_padding
        sparse = self.negatives is not None
        self.item_embedding = nn.Embedding(self.n_items, size, padding_idx=0, sparse=sparse)
        self.position_embedding = nn.Embedding(self.max_seq_length, size)
        self.norm = nn.LayerNorm(size, eps=config["layer_norm_eps"])
        self.dropout = nn.Dropout(config["hidden_dropout_prob"])
        self.blocks = nn.ModuleList(FilterBlock(config, keys.bsarec_alpha) for _ in range(config["n_layers"]))
        self.register_buffer("waves", slow_waves(self.max_seq_length, keys.bsarec_cutoff), persistent=False)
        fuse_layers(self)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=config["initializer_range"])
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def states(self, items: Tensor) -> Tensor:
        """What the last block reads.

        Args:
            items: int64 [B, T], left-padded; T is the window, or less where padding takes no part.

        Returns:
            float [B, T, d], the newest event at position T - 1.
        """
        width = items.shape[1]
        hidden = self.item_embedding(items) + self.position_embedding.weight[-width:]
        hidden = self._events(self.dropout(self.norm(hidden)), items)
        waves, mask = self.waves[-width:], self.get_attention_mask(items)
        for block in self.blocks[:-1]:
            hidden = self._events(block(hidden, hidden, waves @ (waves.T @ hidden), mask), items)
        return hidden

    def _events(self, hidden: Tensor, items: Tensor) -> Tensor:
        """States without those of padding, where it takes no part."""
        return hidden if self.padding else hidden * (items > 0)[:, :, None]

    def forward(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """State at the newest event, float [B, d]; the last block is computed there alone."""
        if self.padding or item_seq.device.type != "cpu":  # an accelerator has one group, and needs no order
            return self._newest(left_padded(item_seq, item_seq_len, self.max_seq_length))
        groups, found = length_groups(item_seq_len, item_seq.device, NARROWEST_PREFIXES), []
        for rows in groups:
            length = item_seq_len[rows]
            width = self.max_seq_length if len(groups) == 1 else int(length.max())
            found.append(self._newest(left_padded(item_seq[rows], length, width)))
        return torch.cat(found)[torch.argsort(torch.cat(groups))]

    def _newest(self, items: Tensor) -> Tensor:
        """State at the last position of left-padded rows int64 [B, T]: float [B, d]."""
        hidden, waves = self.states(items), self.waves[-items.shape[1] :]
        low = (self.waves[-1] @ (waves.T @ hidden))[:, None]
        mask = self.get_attention_mask(items)[:, :, -1:]
        return self.blocks[-1](hidden, hidden[:, -1:], low, mask)[:, 0]

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Cross-entropy over the whole catalogue, the mean over rows; items of the history are negatives."""
        queries = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        weights, targets = torch.ones(len(queries), device=queries.device), interaction[self.POS_ITEM_ID]
        loss, _ = item_cross_entropy(self.negatives, queries, self.item_embedding, targets, weights)
        return loss / len(queries)

    def step_shapes(self, batch: Any) -> Hashable | None:
        """Rows; they all have the width of the window. Drawn negatives vary in number."""
        return len(batch) if isinstance(batch, PackedBatch) and self.negatives is None else None

    def step_inputs(self, batch: Any) -> list[Tensor]:
        """The columns."""
        return list(batch.interaction.values())

    def item_vectors(self) -> Tensor:
        """The item embedding, float [N, d]."""
        return self.item_embedding.weight

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Scores of all items, float [B, N]."""
        queries = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return queries @ self.item_embedding.weight.T

    def predict(self, interaction: Any) -> Tensor:
        """Scores of one item per row, float [B]."""
        queries = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return (queries * self.item_embedding(interaction[self.ITEM_ID])).sum(-1)


def left_padded(items: Tensor, length: Tensor, width: int) -> Tensor:
    """Rows with their padding before the events.

    Args:
        items: int64 [B, T], right-padded with 0, T <= width.
        length: int64 [B].
        width: L.

    Returns:
        int64 [B, L], the newest event in the last column.
    """
    place = torch.arange(width, device=items.device) - (width - length)[:, None]
    return items.gather(1, place.clamp(0, items.shape[1] - 1)).masked_fill(place < 0, 0)
