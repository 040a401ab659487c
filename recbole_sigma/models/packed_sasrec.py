"""PackedSASRec: RecBole's SASRec network with a full-softmax loss at every position of each user's window.

RecBole trains SASRec on one row per prefix and reads the loss at the last position only; the original paper
(Kang and McAuley 2018, section III-E) has a loss at every position. On ml-100k that is 37 times fewer rows
for the same targets.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from logging import getLogger
from typing import Any

import torch
import torch.nn.functional as F
from recbole.model.sequential_recommender.sasrec import SASRec
from torch import Tensor, nn

from recbole_sigma.data.dataset import PackedDataset
from recbole_sigma.models.history_rates import HistoryRates
from recbole_sigma.models.losses import history_of, uniform_cross_entropy
from recbole_sigma.models.low_pass import FilterBlock, causal_low_pass
from recbole_sigma.models.packed import PackedModel, PackedRows, RowGroup, fuse_layers
from recbole_sigma.models.packed_encoder import encode
from recbole_sigma.models.sampled_softmax import item_cross_entropy, sampler_of
from recbole_sigma.settings.baseline_keys import SasrecKeys
from recbole_sigma.settings.keys import ProtocolKeys, RowKeys, SoftmaxKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.values import UserError

CUTOFF = 5  # c of the low-pass, as published


def _runs_packed(encoder: nn.Module, row: Tensor) -> bool:
    """Whether `encode` pays: an accelerator wants one shape, and torch.compile the module as it is."""
    return row.device.type == "cpu" and encoder._compiled_call_impl is None


class PackedSASRecDataset(PackedDataset):
    """The dataset RecBole picks for the model named PackedSASRec."""


class PackedSASRec(PackedModel, SASRec):
    """See the module's docstring.

    Where the protocol filters seen items, the items of a window's history are no negatives
    (``sasrec_mask_seen``): the same lever that SIGMA's losses have.

    ``sasrec_loss: CE`` is the full softmax; ``BCE`` the loss of the SASRec paper (section III-E): at every
    position the target against one negative, drawn uniformly from the items outside the row.

    ``sampled`` is the first stage of GPSD (arXiv 2506.03699): the softmax over the target and
    ``sasrec_negatives`` items that are drawn uniformly, the same for a whole batch.

    ``sasrec_low_pass`` puts BSARec's frequency path beside the attention, made causal (`low_pass`).

    ``sasrec_score: dot`` scores by inner product as SASRec does; ``cosine`` by cosine times a learned scale.
    """

    learns_labels = True
    averages_scores = True

    @classmethod
    def follows_filter(cls, config: Mapping[str, Any]) -> bool:
        """Whether the softmax leaves out the items that the protocol filters."""
        return read(SasrecKeys, config).sasrec_mask_seen

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        keys = read(SasrecKeys, config)
        self.label = config["LABEL_FIELD"] if config["judged_by"] == "labels" else None
        self.one_target = read(RowKeys, config).train_rows == "prefixes"
        self.binary = keys.sasrec_loss == "BCE"
        self.drawn = keys.sasrec_negatives if keys.sasrec_loss == "sampled" else 0
        self.cosine = keys.sasrec_score == "cosine"
        self.mask_seen = self.follows_filter(config) and read(ProtocolKeys, config).filter_seen
        self.rates: HistoryRates | None = None
        self.rate_window = keys.history_rate_window
        if keys.history_rates != (1,) or self.rate_window:
            if keys.sasrec_low_pass or not keys.history_rates or min(keys.history_rates) < 1:
                raise UserError(
                    f"history_rates must name rates of 1 or more, without sasrec_low_pass, not "
                    f"{list(keys.history_rates)}"
                )
            self.rates = HistoryRates(keys.history_rates, self.hidden_size)
        self._build_trunk(config)
        fuse_layers(self)
        whole = not (self.binary or self.drawn or self.label)  # the loss is a softmax over the catalogue
        asked = read(SoftmaxKeys, config).softmax_negatives
        if not whole and asked not in ("auto", 0):
            raise UserError(
                "softmax_negatives stands for the catalogue in sasrec_loss: CE, and this loss has no softmax "
                "over it: leave softmax_negatives out"
            )
        self.negatives = sampler_of(config, dataset) if whole else None
        self.item_embedding.sparse = self.negatives is not None
        if self.cosine:
            self.scale = nn.Parameter(torch.tensor(1.0 / keys.sasrec_temperature))

    def _build_trunk(self, config: Any) -> None:
        """Put what `states` needs in place of SASRec's blocks, where it needs other ones."""
        alpha = read(SasrecKeys, config).sasrec_low_pass
        self.blocks = nn.ModuleList(FilterBlock(config, alpha) for _ in range(self.n_layers if alpha else 0))
        if alpha:
            del self.trm_encoder
            self.blocks.apply(self._init_weights)
            self.register_buffer("low_pass", causal_low_pass(self.max_seq_length, CUTOFF), persistent=False)

    def inputs(self, interaction: Any) -> tuple[Tensor, ...]:
        """What `states` reads beside the items, each [B, T]."""
        return ()

    def states(self, item_seq: Tensor, *more: Tensor) -> Tensor:
        """SASRec's hidden states at every position.

        Args:
            item_seq: int64 [B, T].
            more: what `inputs` gave, for the same rows.

        Returns:
            float [B, T, d].
        """
        if self.rates is not None:
            return self.rates(item_seq, self.item_embedding(item_seq), self._expert)
        positions = torch.arange(item_seq.shape[1], device=item_seq.device)
        hidden = self.item_embedding(item_seq) + self.position_embedding(positions)[None]
        hidden = self.dropout(self.LayerNorm(hidden))
        mask, width = self.get_attention_mask(item_seq), item_seq.shape[1]
        if len(self.blocks):
            for block in self.blocks:
                hidden = block(hidden, hidden, self.low_pass[:width, :width] @ hidden, mask)
            return hidden
        return self.trm_encoder(hidden, mask, output_all_encoded_layers=True)[-1]

    def _expert(self, items: Tensor, mark: Tensor) -> Tensor:
        """States float [R, S, d] of rows of one rate, int64 [R, S]; they share the trunk."""
        positions = torch.arange(items.shape[1], device=items.device)
        hidden = self.item_embedding(items) + self.position_embedding(positions) + mark
        mask = self.get_attention_mask(items)
        if self.rate_window:
            far = positions[:, None] - positions >= self.rate_window
            mask = mask.masked_fill(far, -10_000.0)
        return self.trm_encoder(self.dropout(self.LayerNorm(hidden)), mask, output_all_encoded_layers=True)[
            -1
        ]

    def on_epoch_start(self, epoch: int, train_data: Any) -> None:
        """Redraw the rows, and say how the epoch before used its rates."""
        if self.rates is not None and epoch:
            getLogger().info(self.rates.told())
        super().on_epoch_start(epoch, train_data)

    def compiled_parts(self) -> list[nn.Module]:
        """The transformer, as a whole or by its blocks."""
        return list(self.blocks) or [self.trm_encoder]

    def forward(self, item_seq: Tensor, item_seq_len: Tensor, *more: Tensor) -> Tensor:
        """State at the last position, float [B, d]."""
        return self.gather_indexes(self.states(item_seq, *more), item_seq_len - 1)

    def item_vectors(self) -> Tensor:
        """The item embedding, float [N, d]."""
        return self.item_embedding.weight

    def _logits(self, states: Tensor, items: Tensor) -> Tensor:
        """Scores of states [M, d] against item vectors [n, d]."""
        return self._asking(states) @ self._compared(items).T

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Mean of the loss over all positions of the batch; that of the label where rows have one."""
        if self.label:
            return F.binary_cross_entropy_with_logits(
                self._score(interaction), interaction[self.label].float()
            )
        rows = self.packed_rows(interaction)
        more = [rows.in_order(part) for part in self.inputs(interaction)]
        row, column = rows.row, rows.column
        queries = self._queries(rows, row, column, more)
        targets = rows.items[row, column + 1]
        if self.binary:
            return self._binary_loss(queries, targets, rows.items, row, rows.weights())
        queries = self._asking(queries)
        if self.drawn:
            vectors = self._compared(self.item_embedding.weight)
            return uniform_cross_entropy(queries, vectors, targets, rows.weights(), self.drawn)
        hidden = history_of(rows.items, row, column) if self.mask_seen else None
        table, weights = self.item_embedding, rows.weights()
        return item_cross_entropy(self.negatives, queries, table, targets, weights, hidden, self._compared)[0]

    def _asking(self, states: Tensor) -> Tensor:
        """States as queries of item vectors."""
        return self.scale * F.normalize(states, dim=-1) if self.cosine else states

    def _compared(self, vectors: Tensor) -> Tensor:
        """Item vectors as queries meet them."""
        return F.normalize(vectors, dim=-1) if self.cosine else vectors

    def step_shapes(self, batch: Any) -> Hashable | None:
        """See `Contract.step_shapes`; how many different negatives are drawn varies, which no replay can
        do.
        """
        return None if self.binary or self.negatives is not None else super().step_shapes(batch)

    def _queries(self, rows: PackedRows, row: Tensor, column: Tensor, more: list[Tensor]) -> Tensor:
        """States float [P, d] before each target."""
        padded = self.one_target or self.rates is not None or len(self.blocks)
        if padded or not _runs_packed(self.trm_encoder, row):
            return torch.cat([self._read(rows, group, more) for group in rows.groups])
        hidden = self.item_embedding(rows.items[row, column]) + self.position_embedding(column)
        return encode(self.trm_encoder, self.dropout(self.LayerNorm(hidden)), rows.groups)

    def _read(self, rows: PackedRows, group: RowGroup, more: list[Tensor]) -> Tensor:
        """States float [M, d] before each target of rows of similar length."""
        inputs = rows.items[group.rows, : group.width - 1]
        states = self.states(inputs, *(part[group.rows] for part in more))
        return group.pick(states)

    def _binary_loss(
        self, states: Tensor, targets: Tensor, items: Tensor, row: Tensor, weights: Tensor
    ) -> Tensor:
        """-log sigmoid(target) - log sigmoid(-negative), the weighted sum over M positions.

        Args:
            states: float [M, d].
            targets: int64 [M].
            items: int64 [B, T] items of the rows, right-padded with 0.
            row: int64 [M], the row of each position.
            weights: float [M].
        """
        own = torch.zeros(len(items), self.n_items, dtype=torch.bool, device=items.device)
        own.scatter_(1, items, True)
        own[own[:, 1:].all(dim=1)] = False  # a row that holds the whole catalogue: any item will do
        own[:, 0] = True
        negatives = torch.zeros_like(targets)
        refused = own[row, negatives]
        while refused.any():
            drawn = torch.randint(1, self.n_items, (int(refused.sum()),), device=items.device)
            negatives[refused] = drawn
            refused = own[row, negatives]
        both = self.item_embedding(torch.stack([targets, negatives]))
        if self.cosine:
            scores = self.scale * (F.normalize(states, dim=-1) * F.normalize(both, dim=-1)).sum(-1)
        else:
            scores = (states * both).sum(-1)
        return -((F.logsigmoid(scores[0]) + F.logsigmoid(-scores[1])) * weights).sum()

    def _last(self, interaction: Any) -> Tensor:
        return self.forward(
            interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN], *self.inputs(interaction)
        )

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Scores of all items, float [B, N]."""
        states = self._last(interaction)
        return self._logits(states, self.item_embedding.weight)

    def predict(self, interaction: Any) -> Tensor:
        """Scores of one item per row, float [B]; probabilities where labels are learned."""
        scores = self._score(interaction)
        return scores.sigmoid() if self.label else scores

    def _score(self, interaction: Any) -> Tensor:
        states = self._last(interaction)
        items = self.item_embedding(interaction[self.ITEM_ID])
        if self.cosine:
            return self.scale * (F.normalize(states, dim=-1) * F.normalize(items, dim=-1)).sum(-1)
        return (states * items).sum(-1)
