"""Paths around the trunk, all of them ours: what a small network would spend its capacity on finding.

Each adds to the query that the catalogue is searched with: the newest items (`RecencyPath`), all items of the
window (`InterestPath`), the words of an instruction (`WordPath`). The last part of the file keeps the general
instruction from changing anything.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sigma.language.transformer import Dropout
from recbole_sigma.models.sigma.item_tokens import rows_of

NEWEST = 20  # items that the recency path reads
DECAY = 0.8  # initial weight per step of age, that of the training-free WindowItemKNN
SHARE = 0.3  # initial size against a state of the trunk
STEP = (
    2.0  # a word is in few labels, and its gradient is noisy: at 1 its vector grows several times too slowly
)
PULL = 4.0  # weight of the pull beside the labels' losses, both in nats per label


class StraightPaths(nn.Module):
    """What the histories' items add to the state at every position, beside the trunk.

    Args:
        names: as ``sigma_paths`` lists them; none leaves the states as they are.
        d_model: d.
        dropout: of the interest path.
    """

    def __init__(self, names: Sequence[str], d_model: int, dropout: float) -> None:
        super().__init__()
        self.recency = RecencyPath(d_model, NEWEST) if "recency" in names else None
        self.interest = InterestPath(d_model, dropout) if "interest" in names else None

    def forward(self, items: Tensor, tokens: Tensor, vectors: Tensor) -> Tensor:
        """The paths' sum.

        Args:
            items: int64 [B, T] histories as rows of the next two, oldest first.
            tokens: float [n, d] item tokens, as the trunk reads them.
            vectors: float [n, d] item vectors, as queries are compared with them.

        Returns:
            float [B, T, d], zeros without a path.
        """
        added = tokens.new_zeros((*items.shape, tokens.shape[1]))
        if self.recency is not None:
            added = added + self.recency(F.normalize(rows_of(tokens, items), dim=-1))
        if self.interest is not None:
            added = added + self.interest(rows_of(vectors, items))
        return added


def identity_projection(d_model: int) -> nn.Linear:
    """A trained projection without bias that starts as the identity: what a straight path ends in."""
    project = nn.Linear(d_model, d_model, bias=False)
    with torch.no_grad():
        project.weight.copy_(torch.eye(d_model))
    return project


class RecencyPath(nn.Module):
    """Weighted sum of the newest item vectors, projected: what item-to-item similarity does, learned.

    A small trunk on small data spends its capacity on finding that the next item resembles the last ones.
    Here that is where it starts: weights decay with age, the projection is the identity, and the trunk adds
    what similarity cannot say.

    Args:
        d_model: d.
        last: newest items that count.
    """

    def __init__(self, d_model: int, last: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(DECAY ** torch.arange(last, dtype=torch.float32))
        self.project = identity_projection(d_model)
        self.share = nn.Parameter(torch.tensor(SHARE * d_model**0.5))

    def forward(self, items: Tensor) -> Tensor:
        """The path's value at every position.

        Args:
            items: float [B, T, d] unit item tokens of a history, oldest first.

        Returns:
            float [B, T, d]; entry t reads items t, t - 1, ...
        """
        step = torch.arange(items.shape[1], device=items.device)
        age = step[:, None] - step  # [T, T]: position t reads item s with the weight of age t - s
        counts = (age >= 0) & (age < len(self.weights))
        by_age = self.weights[age.clamp(0, len(self.weights) - 1)].masked_fill(~counts, 0.0)
        total = (by_age / self.weights.abs().sum()) @ items
        return self.share * self.project(total)


class InterestPath(nn.Module):
    """Sum of all item vectors of the window over the root of their number, projected.

    What a linear autoencoder over the history would say: no order, no attention, hence hard to overfit. The
    projection starts as the identity; dropout keeps the trunk from leaning on it.

    Args:
        d_model: d.
        dropout: share of the path's values that training hides.
    """

    def __init__(self, d_model: int, dropout: float) -> None:
        super().__init__()
        self.project = identity_projection(d_model)
        self.dropout = Dropout(dropout)

    def forward(self, items: Tensor) -> Tensor:
        """The path's value at every position.

        Args:
            items: float [B, T, d] item vectors of a history, oldest first.

        Returns:
            float [B, T, d]; entry t reads items 0 to t.
        """
        count = torch.arange(1, items.shape[1] + 1, device=items.device, dtype=items.dtype)
        return self.dropout(self.project(items.cumsum(dim=1) / count.sqrt()[:, None]))


class WordPath(nn.Module):
    """Every word of an instruction adds a vector of its own to the scaled query.

    P(item | history, words) is proportional to P(item | history) exp(<words, item>): the history says what
    the user likes, the words what is asked for. Without this path a trunk that is trained from scratch on
    some ten thousand labels does not find the slot in the instruction at all, because its words reach the
    query through layers that the histories shape. Here a word starts as nothing and learns directly which
    items it calls for; the trunk adds what depends on the history. Words that training never saw stay
    nothing, so an unknown wording is read by the words that are known.

    Args:
        vocabulary: number of token ids.
        d_model: d.
        pad: id of the padding token.
    """

    def __init__(self, vocabulary: int, d_model: int, pad: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, d_model, padding_idx=pad)
        nn.init.zeros_(self.words.weight)
        self.scale = STEP * d_model**0.5

    def forward(self, text: Tensor) -> Tensor:
        """What instructions add.

        Args:
            text: int64 [..., I], padded with the padding token.

        Returns:
            float [..., d].
        """
        return self.scale * self.words(text).sum(dim=-2)


# --- the general instruction asks for nothing ---------------------------------------------------------------
#
# "Recommend the next item" says no more than the history does, yet a branch and words that learn from the
# labels of seven tasks change the list under it. Its labels therefore train the state of the history alone,
# and what the instruction would add is a loss of its own: the list under any general wording stays that of
# the history.


def covariance(vectors: Tensor) -> Tensor:
    """Covariance of the item vectors over the catalogue, or over what a step meets of it, without gradient.

    Args:
        vectors: float [n, d]; row 0 is the padding item.

    Returns:
        float [d, d].
    """
    items = vectors.detach()[1:]
    items = items - items.mean(dim=0)
    return items.T @ items / max(len(items), 1)


def divergence(change: Tensor, spread: Tensor) -> Tensor:
    """How far a change of the query moves the distribution over the items, in nats.

    Half the variance of the change in the logits over the catalogue: the Kullback-Leibler divergence to
    second order where items are equally likely.

    Args:
        change: float [M, d], change of the scaled query.
        spread: float [d, d] from `covariance`.

    Returns:
        float [M].
    """
    return 0.5 * torch.einsum("md,de,me->m", change, spread, change)
