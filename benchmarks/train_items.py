"""Items and train events of a dataset, as SIGMA's preparation reads them, and a table of what is measured on
them; for the other scripts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

import recbole_sigma  # noqa: F401  before RecBole
from recbole_sigma.grounding.ground import Sources
from recbole_sigma.preparation.items import PreparationOptions, item_sources
from recbole_sigma.run.config import RunConfig
from recbole_sigma.run.loaders import load_data
from recbole_sigma.settings.reading import parse_arguments
from recbole_sigma.values import UserError

Measure = Callable[["TrainItems", dict[str, Any]], tuple[list[dict[str, Any]], str]]
"""(items, the script's own options) -> (rows of the table, a sentence below it)."""


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
    config = RunConfig("SIGMA", name, None, {"state": "ERROR", "show_progress": False, **given})
    train = load_data(config, config.model_class).train._dataset
    options = PreparationOptions.from_config(config)
    sources = item_sources(train, config, options.grounding.views)
    return TrainItems(config, options, sources, *train.train_events().sequences())


def print_table(arguments: list[str], measure: Measure, decimals: int, own: Sequence[str] = ()) -> int:
    """Run a script of this kind: read the command line, measure, print the table; returns the exit code.

    Args:
        arguments: ``--dataset=NAME``, the script's own options, keys of properties/model/SIGMA.yaml.
        measure: what the script does.
        decimals: of the numbers in the table.
        own: the script's own options.
    """
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    problems: list[str] = []
    given = parse_arguments(arguments, problems)
    options = {name: given.pop(name) for name in own if name in given}
    try:
        if problems:
            raise UserError("; ".join(problems))
        name = str(given.pop("dataset", "ml-100k"))
        rows, sentence = measure(train_items(name, given), options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(tabulate(rows, headers="keys", floatfmt=f".{decimals}f"))
    print(sentence)
    return 0
