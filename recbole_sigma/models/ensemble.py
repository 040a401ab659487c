"""Several networks of one model, trained side by side and read as one (``ensemble_size``).

A deep ensemble (Lakshminarayanan et al. 2017, arXiv 1612.01474): equal networks from different random starts,
which see the same batches and share nothing but the prepared items. Their scores are averaged, which takes
out what each owes to its start: on sparse sets that is more than most changes of the network give.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from recbole_sigma.decoding.top_k import top_k
from recbole_sigma.models.contract import contract_class
from recbole_sigma.models.losses import open_log_softmax
from recbole_sigma.settings.baseline_keys import EnsembleKeys
from recbole_sigma.settings.policy_keys import PolicyKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.values import RankedItems, UserError


def class_of(config: Any, model_class: type) -> type:
    """What a run builds: the model's class, or the class of an ensemble of it.

    Raises:
        UserError: the settings ask for an ensemble that cannot be had.
    """
    size = read(EnsembleKeys, config).ensemble_size
    if size == 1 or not contract_class(model_class).averages_scores:
        return model_class
    if read(PolicyKeys, config).policy != "none":
        raise UserError(
            f"ensemble_size: {size}: the policy stage trains one network: set policy: none or "
            "ensemble_size: 1"
        )
    if contract_class(model_class).generative and config["decode_beam"]:
        raise UserError(
            f"ensemble_size: {size}: a mean needs every network's score of every item, and a beam leaves "
            "items out: set decode_beam: 0"
        )
    return ensemble_of(model_class, size)


@cache
def ensemble_of(model_class: Any, size: int) -> type:
    """The class of an ensemble; its name is the model's, as it is built from the same settings.

    Args:
        model_class: a model that says ``averages_scores``.
        size: M networks, itself one of them.
    """

    class Ensemble(model_class):  # type: ignore[misc]
        def __init__(self, config: Any, dataset: Any) -> None:
            super().__init__(config, dataset)
            self.others = nn.ModuleList(model_class(config, dataset) for _ in range(size - 1))

        def _each(self, name: str, *given: Any) -> list[Any]:
            """What a function of every network gives."""
            own = getattr(super(), name)(*given)
            return [own, *(getattr(other, name)(*given) for other in self.others)]

        def _mean(self, name: str, *given: Any) -> Tensor:
            return torch.stack(self._each(name, *given)).mean(dim=0)

        def on_epoch_start(self, epoch: int, train_data: Any) -> None:
            """Every network begins the epoch; all draw the same rows."""
            self._each("on_epoch_start", epoch, train_data)

        def calculate_loss(self, interaction: Any) -> Any:
            """The networks' mean losses, or the mean of each part."""
            found = self._each("calculate_loss", interaction)
            if not isinstance(found[0], tuple):
                return torch.stack(found).mean()
            return tuple(torch.stack(parts).mean() for parts in zip(*found, strict=True))

        def compiled_parts(self) -> list[nn.Module]:
            """Those of every network."""
            return [part for parts in self._each("compiled_parts") for part in parts]

        def item_vectors(self) -> Tensor:
            """The networks' vectors side by side, as the mean of products is a product of these."""
            return torch.cat(self._each("item_vectors"), dim=1)

        def full_sort_predict(self, interaction: Any) -> Tensor:
            """Mean scores of all items, float [B, N]."""
            if model_class.generative:
                return self.score_all(interaction)
            return self._mean("full_sort_predict", interaction)

        def predict(self, interaction: Any) -> Tensor:
            """Mean scores of one item per row, float [B]."""
            if not model_class.generative:
                return self._mean("predict", interaction)
            return self.score_all(interaction).gather(1, interaction[self.ITEM_ID][:, None])[:, 0]

        # Of a model that makes its own lists. The mean of log-probabilities is a distribution once more after
        # the softmax, and averages better than probabilities do (measured on Beauty).

        def score_all(self, interaction: Any, seen: Any = None, width: int | None = None) -> Tensor:
            """log P of every item that is left under the networks together: float [B, N]."""
            for other in self.others:
                other.decoding = self.decoding  # a list may be asked for under another mode
            return open_log_softmax(self._mean("score_all", interaction, seen, width))

        def _rank(self, interaction: Any, k: int, seen: Any, how: Any) -> RankedItems:
            return top_k(self.score_all(interaction, seen, how.width), k, seen)

        def target_gates(self, interaction: Any, row: Tensor, items: Tensor) -> Tensor | None:
            """Mean gates, where the networks have any."""
            found = self._each("target_gates", interaction, row, items)
            return None if found[0] is None else torch.stack(found).mean(dim=0)

    Ensemble.__name__, Ensemble.__qualname__ = model_class.__name__, model_class.__qualname__
    Ensemble.__module__, Ensemble.__doc__ = model_class.__module__, model_class.__doc__
    return Ensemble
