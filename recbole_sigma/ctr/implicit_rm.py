"""ImplicitRM (arXiv 2603.23184) for recommendation: a click is preference times activity, both learned.

Two networks that read different columns: preference r from users and items, activity q from how much an item
and a person are seen at all, or from columns such as a position. Rows without a click are split between the
two by `propensity.posterior`. Ranking goes by r alone; `predict_click` is r q.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import FeatureSource, InputType, ModelType
from torch import Tensor, nn

from recbole_sigma.ctr import propensity
from recbole_sigma.ctr.embedding import FieldEmbedding, feature_fields, known_fields
from recbole_sigma.models.contract import Contract
from recbole_sigma.settings.label_keys import ImplicitRmKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.reading import nearest
from recbole_sigma.values import UserError

COUNTS = ("item_popularity", "user_activity")
"""Activity that is counted and not read from a column: clicks of the item, and of the person, in train."""
POPULARITY = "popularity"
_CERTAIN = 7.0  # logit of an anchored activity: .999
_LEAST, _MOST = 1e-3, 20.0  # bounds of -log q


class ImplicitRM(Contract, AbstractRecommender):
    """See the module's docstring; keys ``irm_*``, and DeepFM's sizes and dropout."""

    type = ModelType.CONTEXT
    input_type = InputType.POINTWISE
    label_scored = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__()
        self.keys = keys = read(ImplicitRmKeys, config)
        self.label = config["LABEL_FIELD"]
        self.user, self.item = dataset.uid_field, dataset.iid_field
        sizes = config["embedding_size"], config["mlp_hidden_size"], config["dropout_prob"]
        self.preference = PreferenceNet(dataset, preference_fields(keys, dataset, config), *sizes)
        counts = clicks_of(dataset, self.label)
        self.activity = ActivityNet(dataset, activity_fields(keys, dataset, config), counts, keys)
        items = counts[self.item].numpy()
        share = propensity.popularity_propensity(items)
        self.register_buffer("propensity", torch.tensor(share, dtype=torch.float32), persistent=False)

    def calculate_loss(self, interaction: Any) -> Tensor:
        """The loss that ``irm_loss`` names."""
        click, kind = interaction[self.label], self.keys.irm_loss
        preference = self.preference(interaction)
        if kind == "click":
            return F.binary_cross_entropy_with_logits(preference, click)
        if kind in ("ips", "relevance"):
            weigh = propensity.ips_loss if kind == "ips" else propensity.relevance_loss
            return weigh(preference, click, self.propensity[interaction[self.item]])
        activity = self.activity(interaction)
        if kind == "direct":
            return propensity.direct_loss(preference, activity, click)
        return propensity.em_loss(preference, activity, click, swapped=kind == "swapped")

    def predict(self, interaction: Any) -> Tensor:
        """Preference r of the rows, float [B]."""
        return self.preference(interaction).sigmoid()

    def validation_scores(self, interaction: Any) -> Tensor:
        """Validation holds clicks, not preferences: r q, but for the losses that learn no q."""
        learns_activity = self.keys.irm_loss in ("em", "direct", "swapped")
        return self.predict_click(interaction) if learns_activity else self.predict(interaction)

    def predict_click(self, interaction: Any) -> Tensor:
        """Probability r q of a click, float [B]."""
        return self.predict(interaction) * self.activity(interaction).sigmoid()


def preference_fields(keys: ImplicitRmKeys, dataset: Any, config: Any) -> list[str]:
    """The columns that preference reads: those named, or all of users and items."""
    if keys.irm_preference_fields:
        return known_fields("irm_preference_fields", keys.irm_preference_fields, dataset, config)
    sources = [FeatureSource.USER, FeatureSource.USER_ID, FeatureSource.ITEM, FeatureSource.ITEM_ID]
    of_both = dataset.fields(source=sources)
    return [field for field in feature_fields(dataset, config) if field in of_both]


def activity_fields(keys: ImplicitRmKeys, dataset: Any, config: Any) -> list[str]:
    """The columns and counts that activity reads.

    Raises:
        UserError: they are those of preference, or one of them is unknown.
    """
    named = list(keys.irm_activity_fields)
    if not named:
        raise UserError(
            f"irm_activity_fields names nothing: take {' and '.join(COUNTS)}, or a position column"
        )
    known_fields("irm_activity_fields", [name for name in named if name not in COUNTS], dataset, config)
    if set(named) == set(preference_fields(keys, dataset, config)):
        raise UserError(
            "irm_activity_fields and irm_preference_fields name the same columns, so nothing tells liking "
            "from looking: give activity what preference does not read, such as a position or item_popularity"
        )
    if keys.irm_anchor == POPULARITY and not set(named) <= set(COUNTS):
        raise UserError(
            f"irm_anchor: popularity goes with {' and '.join(COUNTS)} alone: write irm_anchor: COLUMN=VALUE, "
            "a value at which everybody looks (position=1), or ~"
        )
    return named


def clicks_of(dataset: Any, label: str) -> dict[str, Tensor]:
    """Clicks of every user and of every item in the train rows: column -> int64 [ids].

    Args:
        dataset: the train part; no other row is counted.
        label: the label column.
    """
    rows = dataset.inter_feat
    clicked = rows[label] > 0
    return {
        field: torch.bincount(rows[field][clicked], minlength=dataset.num(field))
        for field in (dataset.uid_field, dataset.iid_field)
    }


class PreferenceNet(nn.Module):
    """The network of DeepFM: first order, all pairs, and a perceptron, over one set of vectors."""

    def __init__(self, dataset: Any, fields: list[str], size: int, hidden: list[int], dropout: float) -> None:
        super().__init__()
        self.first = FieldEmbedding(dataset, fields, 1)
        self.vectors = FieldEmbedding(dataset, fields, size)
        self.bias = nn.Parameter(torch.zeros(()))
        widths = [self.vectors.count * size, *hidden]
        layers: list[nn.Module] = []
        for inputs, outputs in zip(widths, widths[1:], strict=False):
            layers += [nn.Dropout(dropout), nn.Linear(inputs, outputs), nn.ReLU()]
        self.deep = nn.Sequential(*layers, nn.Linear(widths[-1], 1)) if hidden else None

    def forward(self, interaction: Any) -> Tensor:
        """Logit of r, float [B]."""
        vectors = self.vectors(interaction)  # [B, fields, size]
        total = vectors.sum(dim=1)
        pairs = 0.5 * (total.square() - vectors.square().sum(dim=1)).sum(dim=1)  # sum of all dot products
        logit: Tensor = self.first(interaction).sum(dim=(1, 2)) + pairs + self.bias
        return logit if self.deep is None else logit + self.deep(vectors.flatten(1)).squeeze(1)


class ActivityNet(nn.Module):
    """How likely a row is looked at.

    With the anchor ``popularity`` it is (n_i / max n)^a (n_u / max n)^b with learned a, b >= 0, so that the
    most popular item is seen by the most active person. Otherwise a small perceptron, and with
    ``COLUMN=VALUE`` the rows of that value are looked at for certain. Without any anchor the scales of r and
    q are known from the shape of the logistic function alone.
    """

    logs: Tensor

    def __init__(
        self, dataset: Any, fields: list[str], counts: dict[str, Tensor], keys: ImplicitRmKeys
    ) -> None:
        super().__init__()
        self.keys = dict(zip(COUNTS, (dataset.iid_field, dataset.uid_field), strict=True))
        self.counted = [name for name in COUNTS if name in fields]
        columns = [name for name in fields if name not in COUNTS]
        for name in self.counted:
            seen = counts[self.keys[name]].double()
            log = (seen + 1).log()
            self.register_buffer(
                name, (log - log.max()).float(), persistent=False
            )  # log share of the largest
        self.power = keys.irm_anchor == POPULARITY
        self.anchor = None if self.power else _anchor(keys.irm_anchor, columns, dataset)
        if self.power:
            start = float(np.log(np.expm1(0.5)))  # softplus of it is the exponent of Saito et al.
            self.exponents = nn.Parameter(torch.full((len(self.counted),), start))
            return
        size = 8
        self.vectors = FieldEmbedding(dataset, columns, size) if columns else None
        self.net = nn.Sequential(
            nn.Linear(len(columns) * size + len(self.counted), 16), nn.ReLU(), nn.Linear(16, 1)
        )

    def forward(self, interaction: Any) -> Tensor:
        """Logit of q, float [B]."""
        shares = [self.get_buffer(name)[interaction[self.keys[name]]] for name in self.counted]
        if self.power:
            cost = -(torch.stack(shares, dim=1) * F.softplus(self.exponents)).sum(dim=1)  # -log q
            return -cost.clamp(_LEAST, _MOST).expm1().log()
        parts = [torch.stack(shares, dim=1)] if shares else []
        if self.vectors is not None:
            parts.append(self.vectors(interaction).flatten(1))
        logit: Tensor = self.net(torch.cat(parts, dim=1)).squeeze(1)
        if self.anchor is not None:
            column, value = self.anchor
            logit = torch.where(interaction[column] == value, _CERTAIN, logit)
        return logit


def _anchor(text: str | None, columns: list[str], dataset: Any) -> tuple[str, int] | None:
    """(column, id) of an anchor ``COLUMN=VALUE``."""
    if text is None:
        return None
    column, sign, value = text.partition("=")
    if not sign or column not in columns:
        raise UserError(
            f"irm_anchor must be popularity, ~ or COLUMN=VALUE with a column of irm_activity_fields, not "
            f"{text!r}{nearest(column, columns)}"
        )
    ids = dataset.field2token_id[column]
    if value not in ids:
        raise UserError(
            f"irm_anchor: column {column!r} holds no value {value!r}{nearest(value, map(str, ids))}"
        )
    return column, int(ids[value])
