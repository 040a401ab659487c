"""WindowItemKNN: a training-free baseline from train co-occurrence inside a window.

Two events of a user at most ``knn_window`` steps apart add 1/sqrt(gap) to their pair of items, in both
directions (``knn_forward`` above 0.5: more from the earlier to the later). The similarity of items i and j is
C_ij / (sqrt(n_i n_j) + knn_shrink), n the items' train counts: a cosine with shrinkage. A candidate's score
is the sum of its similarities to the user's last ``knn_last`` events, each weighted knn_decay^age (the newest
event has age 0). RecBole's ItemKNN is another model: it knows neither order nor recency.
"""

from __future__ import annotations

from typing import Any

from recbole_sigma.grounding.closed_form import Newest
from recbole_sigma.grounding.cooccurrence import window_similarity
from recbole_sigma.models.untrained import Untrained
from recbole_sigma.settings.baseline_keys import KnnKeys
from recbole_sigma.settings.reader import read


class WindowItemKNN(Untrained):
    """See the module's docstring; keys ``knn_window``, ``knn_shrink``, ``knn_last``, ``knn_decay``."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        keys, events = read(KnnKeys, config), dataset.train_events()
        users, items = events.sequences()
        similarity = window_similarity(
            users, items, self.n_items, keys.knn_window, keys.knn_shrink, keys.knn_forward
        )
        self.part = Newest(similarity, events.newest(keys.knn_last), keys.knn_decay)
