"""HistoryEASE: EASE (Steck 2019, arXiv 1905.03375) on the whole history before the judged event.

RecBole's EASE reads the user's row of the train matrix, at validation and at test alike. A sequential model
reads the validation item at test. This one does too, so that both stand on the same events; the weights are
EASE's, from train events alone.
"""

from __future__ import annotations

from typing import Any

from recbole_sigma.grounding.closed_form import Whole
from recbole_sigma.grounding.solver import Solver
from recbole_sigma.models.untrained import Untrained
from recbole_sigma.settings.baseline_keys import EaseKeys
from recbole_sigma.settings.reader import read


class HistoryEASE(Untrained):
    """See the module's docstring; key ``ease_ridge``."""

    whole_history = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        ridge = read(EaseKeys, config).ease_ridge
        self.part = Whole(Solver.of(dataset.train_events(), self.n_items, config).ease(ridge))
