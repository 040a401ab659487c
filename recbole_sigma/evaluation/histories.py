"""What the user of every evaluation row had met before the judged event."""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_sigma.data.events import Chronology, ExactTime
from recbole_sigma.values import SeenPairs, UserError


def first_judged(dataset: Any) -> Tensor:
    """Of every user the number of the first event that an evaluation part judges: int64 [users].

    A user whom it does not judge has a number beyond all events.

    Args:
        dataset: the part, with a `Chronology`.
    """
    rows = dataset.inter_feat
    first = torch.full((dataset.user_num,), len(dataset.chronology), dtype=torch.int64)
    return first.scatter_reduce_(0, rows[dataset.uid_field], rows[dataset.time_field].long(), "amin")


class Histories:
    """Items that a row's user met before the judged event, beyond the model's window too.

    Args:
        loader: RecBole's evaluation loader over a dataset with a `Chronology`.

    Raises:
        UserError: a dataset without event order.
    """

    def __init__(self, loader: Any) -> None:
        dataset: Any = loader._dataset
        if not isinstance(loader._dataset, ExactTime):
            raise UserError(
                "the evaluator needs the events in order: build the dataset through "
                "recbole_sigma.data.events.exact"
            )
        self.chronology: Chronology = dataset.chronology
        self.user_field, self.time_field = dataset.uid_field, dataset.time_field
        self.random_order = loader.config["eval_args"]["order"] == "RO"
        self.moment: Tensor | None = None
        if not loader.is_sequential:
            # one row per user with all its targets: what came before the first of them
            self.moment = first_judged(dataset)

    def __call__(self, interaction: Interaction, history: SeenPairs | None) -> SeenPairs:
        """(row, item) pairs of a batch, rows ascending, items of a row in order of time where there is one.

        Args:
            interaction: the batch.
            history: what the loader gave with it.
        """
        if self.random_order and history is not None:
            return history  # a random split has no "before": RecBole's train and valid items of the user
        users = interaction[self.user_field]
        ranks = interaction[self.time_field] if self.moment is None else self.moment[users]
        return self.chronology.before(users, ranks)
