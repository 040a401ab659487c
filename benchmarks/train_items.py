"""Items and train events of a dataset, as SIGMA's preparation reads them; for the other scripts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import recbole_sigma  # noqa: F401  before RecBole
from recbole_sigma.config import SigmaConfig
from recbole_sigma.grounding.stage import Sources
from recbole_sigma.preparation import PreparationOptions, item_sources
from recbole_sigma.quick_start import load_data


@dataclass(frozen=True)
class TrainItems:
    """What grounding starts from: settings, item texts and labels, train events grouped by user."""

    config: Any
    options: PreparationOptions
    sources: Sources
    users: np.ndarray
    items: np.ndarray


def train_items(name: str, given: dict[str, Any]) -> TrainItems:
    """Load a dataset with keys of properties/model/SIGMA.yaml.

    Raises:
        UserError: no such dataset, or a key that is wrong.
    """
    config = SigmaConfig("SIGMA", name, None, {"state": "ERROR", "show_progress": False, **given})
    train = load_data(config, config.model_class).train._dataset
    options = PreparationOptions.from_config(config)
    sources = item_sources(train, config, options)
    return TrainItems(config, options, sources, *train.train_events().sequences())
