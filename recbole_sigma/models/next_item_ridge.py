"""NextItemRidge: a ridge regression from the newest items of a history to the next one, in closed form.

Every train event is a target, and the ``next_last`` events of its user before it, each weighted
next_decay^age, are what it is told from. So it knows order, which EASE does not.
"""

from __future__ import annotations

from typing import Any

from recbole_sigma.grounding.closed_form import Newest
from recbole_sigma.grounding.solver import Solver
from recbole_sigma.models.untrained import Untrained
from recbole_sigma.settings.baseline_keys import NextKeys
from recbole_sigma.settings.reader import read


class NextItemRidge(Untrained):
    """See the module's docstring; keys ``next_ridge``, ``next_last``, ``next_decay``."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        keys, events = read(NextKeys, config), dataset.train_events()
        last, decay = events.newest(keys.next_last), keys.next_decay
        weights = Solver.of(events, self.n_items, config).next_item_ridge(keys.next_ridge, last, decay)
        self.part = Newest(weights, last, decay)
