"""GateSID (arXiv 2603.22916): semantic IDs speak for items that few have met, clicks for the others.

A ranker that reads the candidate. The history is attended twice, with queries and keys from semantic IDs and
from item vectors; one gate per candidate mixes the two attentions, and decides how strongly the candidate's
two vectors are pulled together. The gate sees the candidate's vector and how well it was known at the moment
that is asked about (`as_of_counts`).

Ours, because the paper leaves it open: those three statistics, the gate detached in the alignment (with its
gradient the alignment closes the gate for cold items), the softmax over one positive and sampled negatives,
candidate and statistics beside the mixed histories in what the perceptron reads, and a vector per age of an
event.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_sigma.data.dataset import item_names
from recbole_sigma.language.transformer import with_cheap_dropout
from recbole_sigma.models.as_of_counts import FEATURES, AsOfCounts
from recbole_sigma.models.contract import Contract
from recbole_sigma.models.losses import with_negatives
from recbole_sigma.models.packed import PackedModel, length_groups
from recbole_sigma.preparation.codes import CodedDataset, codes_extra, prepare_codes
from recbole_sigma.settings.ranker_keys import GateSidKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.tokenization.published_ids import items_fingerprint

_BLOCK = 2048  # candidates at a time while a whole catalogue is scored: what a processor's cache holds


class GateSIDDataset(CodedDataset):
    """The dataset RecBole picks for the model named GateSID: every prefix is a row."""

    moves_ties = False  # the gate reads what was known before the event of a row


class GateSID(PackedModel, SequentialRecommender):
    """See the module's docstring; keys ``gate_*`` and those of semantic IDs."""

    input_type = InputType.POINTWISE
    loss_names = ("rank", "align")
    learns_labels = True
    prediction_count = Contract.prediction_count  # one per row
    step_shapes = Contract.step_shapes

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.label = config["LABEL_FIELD"] if config["judged_by"] == "labels" else None
        self.keys = keys = read(GateSidKeys, config)
        self.codes = getattr(dataset, "prepared", None) or prepare_codes(dataset, config)
        self.items_sha256, self.time_field = items_fingerprint(item_names(dataset)[1:]), dataset.time_field
        self.counts = AsOfCounts.of(dataset, keys.gate_recent_days)
        self.network = GateNetwork(self.codes.codes, self.codes.sizes, keys)
        self.ages = nn.Embedding(self.max_seq_length, keys.gate_size)
        nn.init.zeros_(self.ages.weight)

    def moments(self, interaction: Any) -> Tensor:
        """int64 [B], when each row is asked: a typed history is asked after all that happened."""
        if self.time_field in interaction:
            return interaction[self.time_field].long()
        return torch.full_like(interaction[self.ITEM_SEQ_LEN], self.counts.stride - 1)

    def score(self, interaction: Any, items: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and gates of candidates.

        Args:
            interaction: B rows with a history.
            items: int64 [B, C].

        Returns:
            (float [B, C], float [B, C]).
        """
        length = interaction[self.ITEM_SEQ_LEN]
        history = interaction[self.ITEM_SEQ][:, : max(int(length.max()), 1)]
        features = self.counts(items, self.moments(interaction)[:, None])
        age = length[:, None] - 1 - torch.arange(history.shape[1], device=history.device)  # 0 = the newest
        return self.network(history, items, features, self.ages(age.clamp_min(0)))

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, Tensor]:
        """Softmax of the target against uniform negatives, and lambda times the gated alignment; in place of
        the softmax the logistic loss of the label where rows have one.

        Rows of similar length share a pass.
        """
        target = interaction[self.ITEM_ID]
        asked = (
            target[:, None] if self.label else with_negatives(target, self.keys.gate_negatives, self.n_items)
        )
        parts, gates = [], torch.empty(len(target), device=target.device)
        for rows in length_groups(interaction[self.ITEM_SEQ_LEN].cpu(), target.device):
            own = rows.to(target.device)
            logits, gate = self.score(interaction[own], asked[own])
            if self.label:
                said = interaction[self.label][own].float()
                parts.append(F.binary_cross_entropy_with_logits(logits[:, 0], said, reduction="sum"))
            else:
                parts.append((logits.logsumexp(dim=1) - logits[:, 0]).sum())
            gates = gates.index_put((own,), gate[:, 0])
        ranked = torch.stack(parts).sum() / len(target)
        return ranked, self.keys.gate_align * self.network.alignment(target, gates)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Scores of all items, float [B, N]: row after row, a block of candidates at a time.

        What depends on the candidate alone is computed once for all rows.
        """
        history, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        catalogue = self.network.catalogue(_BLOCK)
        out = torch.empty(len(history), self.n_items, device=history.device)
        ages = self.ages.weight
        for row, (many, moment) in enumerate(zip(length.tolist(), self.moments(interaction), strict=True)):
            about = ages[:many].flip(0)  # 0 = the newest
            self.network.rank_all(catalogue, history[row, :many], self.counts.of_all(moment), about, out[row])
        return out

    def target_gates(self, interaction: Any, row: Tensor, items: Tensor) -> Tensor | None:
        """See `Contract.target_gates`; None where the two attentions stand side by side."""
        if self.keys.gate_mode == "concat":
            return None
        features = self.counts(items, self.moments(interaction)[row])
        return self.network.gates(self.network.items(items), features * self.network.read)

    def predict(self, interaction: Any) -> Tensor:
        """Scores of one item per row, float [B]; probabilities where labels are learned."""
        scores = self.score(interaction, interaction[self.ITEM_ID][:, None])[0][:, 0]
        return scores.sigmoid() if self.label else scores

    def checkpoint_extra(self) -> dict[str, Any]:
        """The semantic IDs travel with the weights."""
        return codes_extra(self.codes, self.items_sha256)


class GateNetwork(nn.Module):
    """The network: histories, candidates and their statistics in, logits and gates out.

    Args:
        codes: int64 [N, levels], semantic IDs of the items; row 0 is padding.
        sizes: codes per level.
        keys: ``gate_*``.
    """

    codes: Tensor

    def __init__(self, codes: Tensor, sizes: tuple[int, ...], keys: GateSidKeys) -> None:
        super().__init__()
        size, self.keys = keys.gate_size, keys
        self.register_buffer("codes", codes, persistent=False)
        self.levels = nn.ModuleList(nn.Embedding(count, size) for count in sizes)
        self.join = nn.Linear(len(sizes) * size, size)
        self.items = nn.Embedding(len(codes), size, padding_idx=0)
        self.queries = nn.ModuleDict({name: nn.Linear(size, size, bias=False) for name in ("sid", "id")})
        self.readers = nn.ModuleDict({name: nn.Linear(size, size, bias=False) for name in ("sid", "id")})
        self.gate = nn.Sequential(nn.Linear(size + len(FEATURES), size), nn.ReLU(), nn.Linear(size, 1))
        widths = [4 * size + len(FEATURES), *keys.gate_hidden]
        layers: list[nn.Module] = []
        for inputs, outputs in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(keys.gate_dropout)]
        self.rank = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
        for table in (*self.levels, self.items):
            nn.init.normal_(table.weight, std=0.1)
        mask = torch.tensor([name in keys.gate_features for name in FEATURES], dtype=torch.float32)
        self.register_buffer("read", mask, persistent=False)
        with_cheap_dropout(self)

    def semantic(self, items: Tensor) -> Tensor:
        """e_sid of items [...]: float [..., d], the vectors of all levels, joined."""
        codes = self.codes[items]
        parts = [table(codes[..., level]) for level, table in enumerate(self.levels)]
        return self.join(torch.cat(parts, dim=-1))

    def forward(
        self, history: Tensor, items: Tensor, features: Tensor, about: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits and gates.

        Args:
            history: int64 [B, L], right-padded with 0.
            items: int64 [B, C] candidates.
            features: float [B, C, 3] of `AsOfCounts`.
            about: float [B, L, d], what is known of each event beside its item: added to what is read of it.

        Returns:
            (float [B, C], float [B, C]).
        """
        features = features * self.read
        own = {"sid": self.semantic(items), "id": self.items(items)}
        past = {"sid": self.semantic(history), "id": self.items(history)}
        gate = self.gates(own["id"], features)
        shares = {name: self._attend(name, own[name], past[name], history) for name in own}
        if self.keys.gate_mode != "concat":
            share = gate[..., None] * shares["sid"] + (1.0 - gate[..., None]) * shares["id"]
            shares = {"sid": share, "id": share}
        mixed = [shares[name] @ (past[name] + about) for name in past]
        whole = torch.cat([*mixed, own["sid"], own["id"], features], dim=-1)
        return self.rank(whole)[..., 0], gate

    def gates(self, vectors: Tensor, features: Tensor) -> Tensor:
        """w of candidates: 1 trusts the semantic ID alone, 0 the item vector alone.

        Args:
            vectors: float [..., d], item vectors.
            features: float [..., 3].
        """
        mode = self.keys.gate_mode
        if mode == "learned":
            return self.gate(torch.cat([vectors, features], dim=-1))[..., 0].sigmoid()
        if mode == "hand":  # 1 / (1 + n / c)
            return 1.0 / (1.0 + features[..., 0].expm1() / self.keys.gate_half_at)
        return torch.full_like(features[..., 0], {"id": 0.0, "sid": 1.0}.get(mode, 0.5))

    def _attend(self, name: str, own: Tensor, past: Tensor, history: Tensor) -> Tensor:
        """Attention weights of candidates over the history: float [B, C, L], rows sum to 1."""
        scores = self.queries[name](own) @ self.readers[name](past).transpose(1, 2)
        empty = (history == 0)[:, None]
        return (scores * own.shape[-1] ** -0.5).masked_fill(empty, -1e9).softmax(dim=-1)

    def alignment(self, items: Tensor, gate: Tensor) -> Tensor:
        """Mean of w_i l_i: each item's two vectors against those of the other items of the batch.

        Args:
            items: int64 [B].
            gate: float [B], w; it takes no gradient from here unless ``gate_detach`` is off.
        """
        own = F.normalize(self.semantic(items), dim=-1)
        other = F.normalize(self.items(items), dim=-1)
        same = items[:, None] == items[None, :]
        same.fill_diagonal_(False)  # copies of an item are no negatives of it
        logits = (own @ other.T / self.keys.gate_tau).masked_fill(same, -1e9)
        each = F.cross_entropy(logits, torch.arange(len(items), device=items.device), reduction="none")
        if self.keys.gate_align_weights == "equal":
            return each.mean()
        return ((gate.detach() if self.keys.gate_detach else gate) * each).mean()

    def catalogue(self, block: int) -> list[Catalogue]:
        """What of every item depends on nothing else, a block of items at a time."""
        size, first = self.items.embedding_dim, cast(nn.Linear, self.rank[0])
        opening, vectors = cast(nn.Linear, self.gate[0]), self.items.weight
        own = {"sid": self.semantic(torch.arange(len(self.codes), device=vectors.device)), "id": vectors}
        pair = torch.cat([own["sid"], own["id"]], dim=-1)
        parts = {
            "base": F.linear(pair, first.weight[:, 2 * size : 4 * size], first.bias),
            "opening": F.linear(vectors, opening.weight[:, :size], opening.bias),
            **{name: self.queries[name](own[name]) * size**-0.5 for name in own},
        }
        split = {name: part.split(block) for name, part in parts.items()}
        return [Catalogue(*row) for row in zip(*split.values(), strict=True)]

    def rank_all(
        self, catalogue: list[Catalogue], history: Tensor, features: Tensor, about: Tensor, out: Tensor
    ) -> None:
        """Logits of all items behind one history, as `forward` gives them.

        The first layer of the perceptron reads a sum over events, so it is applied to the events, which are
        few, and summed behind.

        Args:
            catalogue: of `catalogue`.
            history: int64 [L], no padding.
            features: float [N, 3].
            about: float [L, d], see `forward`.
            out: float [N], where they are written to.
        """
        size, first, features = self.items.embedding_dim, cast(nn.Linear, self.rank[0]), features * self.read
        past = {"sid": self.semantic(history), "id": self.items(history)}
        told = {
            name: F.linear(past[name] + about, first.weight[:, place * size : (place + 1) * size])
            for place, name in enumerate(past)
        }
        readers = {name: self.readers[name](past[name]) for name in past}
        known = first.weight[:, 4 * size :].T
        joined = self.keys.gate_mode != "concat"
        events = torch.cat([*([told["sid"] + told["id"]] if joined else told.values()), known])
        begin = 0
        for part in catalogue:
            block = slice(begin, begin := begin + len(part.base))
            shares = {name: (readers[name] @ getattr(part, name).T).softmax(dim=0) for name in past}
            rows = list(shares.values())
            if joined:
                gate = self._gates_of(part, features[block])
                rows = [torch.lerp(shares["id"], shares["sid"], gate)]
            hidden = torch.addmm(part.base, torch.cat([*rows, features[block].T]).T, events)
            for layer in self.rank[1:]:
                hidden = layer(hidden)
            out[block] = hidden[:, 0]

    def _gates_of(self, part: Catalogue, features: Tensor) -> Tensor:
        """`gates` of a block of the catalogue, float [n]."""
        if self.keys.gate_mode != "learned":
            return self.gates(part.opening, features)
        opening, last = cast(nn.Linear, self.gate[0]), cast(nn.Linear, self.gate[2])
        known = opening.weight[:, self.items.embedding_dim :]
        return last(torch.addmm(part.opening, features, known.T).relu_())[:, 0].sigmoid()


@dataclass(frozen=True)
class Catalogue:
    """n items: what each adds to the first layer of the perceptron and of the gate, and its two queries.

    Attributes:
        base: float [n, width of the perceptron's first layer].
        opening: float [n, d].
        sid, id: float [n, d], scaled.
    """

    base: Tensor
    opening: Tensor
    sid: Tensor
    id: Tensor
