"""SORT (arXiv 2603.03988): one transformer ranks all candidates of a request at once.

A request is one sequence, [BOS; history; SEP; profile; SEP; candidates]. All candidates stand at one position
and see the context and themselves, never each other, so a candidate's score is the same in any company, and
the context is computed once for all of them. Before the feed-forward comes attention over a local window
(history tokens) or the whole context (the tokens behind it, the candidates); each layer drops the oldest
history tokens. Norms are RMSNorm, positions rotary, queries and keys normalised, the attention output gated.

A request here is built from one positive and sampled negatives; an impression log would bring its own. Item
vectors may come from another model and stay as they are (`sort_items_from`, `sort_freeze`): the two stages of
GPSD (arXiv 2506.03699).
"""

from __future__ import annotations

from typing import Any, cast

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
from recbole_sigma.models.packed import PackedModel, length_groups
from recbole_sigma.models.sort_network import RequestLayer, RequestTransformer
from recbole_sigma.settings.ranker_keys import SortKeys
from recbole_sigma.settings.reader import read

CANDIDATES = 2048  # scored at a time while a whole catalogue is ranked
_ROWS = 64  # requests at a time


class SORTDataset(PrefixDataset):
    """The dataset RecBole picks for the model named SORT: every prefix is a request."""

    moves_ties = False  # a request has a label of its own


class SORT(PackedModel, SequentialRecommender):
    """See the module's docstring; keys ``sort_*``."""

    input_type = InputType.POINTWISE
    known: Tensor | None
    loss_names = ("rank",)
    learns_labels = True
    prediction_count = Contract.prediction_count  # one per request
    step_shapes = Contract.step_shapes

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.label = config["LABEL_FIELD"] if config["judged_by"] == "labels" else None
        self.keys = keys = read(SortKeys, config)
        self.profiles = Profiles(dataset, keys.sort_profile, keys.sort_size)
        known: Tensor | None = None
        if keys.sort_items_from is None:
            self.items = nn.Embedding(self.n_items, keys.sort_size, padding_idx=0)
            nn.init.normal_(self.items.weight, std=0.02)
        else:
            if keys.sort_items_from == "random":
                table = torch.randn(self.n_items, keys.sort_size)
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
        history = left_padded(history, length, max(int(length.max()), 1))
        return self.network.context(
            self.item_tokens(history), history > 0, self.profiles(interaction[self.USER_ID])
        )

    def score(self, interaction: Any, items: Tensor) -> Tensor:
        """Logits of candidates: int64 [B, C] -> float [B, C]."""
        return self.network.candidates(self.context(interaction), self.item_tokens(items))

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Of one positive and uniform negatives per request: a softmax over them, or a logistic loss; that of
        the label where rows have one.

        Requests of similar length share a pass.
        """
        target = interaction[self.ITEM_ID]
        asked = (
            target[:, None] if self.label else with_negatives(target, self.keys.sort_negatives, self.n_items)
        )
        total = torch.zeros((), device=asked.device)
        for rows in length_groups(interaction[self.ITEM_SEQ_LEN].cpu(), asked.device):
            own = rows.to(asked.device)
            logits = self.score(interaction[own], asked[own])
            if self.label:
                each = F.binary_cross_entropy_with_logits(
                    logits[:, 0], interaction[self.label][own].float(), reduction="none"
                )
            elif self.keys.sort_loss == "softmax":
                each = logits.logsumexp(dim=1) - logits[:, 0]
            else:
                each = -F.logsigmoid(logits[:, 0]) - F.logsigmoid(-logits[:, 1:]).mean(dim=1)
            total = total + each.sum()
        return total / len(asked)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Scores of all items, float [B, N]: the context once, then block after block of candidates.

        Requests of similar length share a context, and a block is small enough for a processor's cache.
        """
        length = interaction[self.ITEM_SEQ_LEN]
        tokens = self.item_tokens(torch.arange(self.n_items, device=length.device))[None]
        layer = cast(RequestLayer, self.network.layers[0])
        first = [part.split(CANDIDATES, dim=2) for part in layer.heads(layer.first(tokens))]
        blocks = list(zip(tokens.split(CANDIDATES, dim=1), *first, strict=True))
        out = tokens.new_empty(len(length), self.n_items)
        together = 1 if length.device.type == "cpu" else _ROWS
        for rows in torch.argsort(length).split(_ROWS):
            context = self.context(interaction[rows])
            for part in torch.arange(len(rows), device=rows.device).split(together):
                own = [(pairs[part], readable[part]) for pairs, readable in context]
                scores = [self.network.candidates(own, block, tuple(parts)) for block, *parts in blocks]
                out[rows[part]] = torch.cat(scores, dim=1)
        return out

    def predict(self, interaction: Any) -> Tensor:
        """Scores of one item per request, float [B]; probabilities where labels are learned."""
        scores = self.score(interaction, interaction[self.ITEM_ID][:, None])[:, 0]
        return scores.sigmoid() if self.label else scores


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
