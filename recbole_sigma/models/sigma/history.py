"""What SIGMA sets by the data: long histories and short ones want other paths, inputs and batches.

A key that the user leaves at ``~`` is filled in here, once the events are split and before anything is
built; a key that the user sets stays. results/README.md says what was measured.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from recbole_sigma.data.dataset import PackedDataset
from recbole_sigma.data.events import LONG
from recbole_sigma.instructions.samples import wants_tasks
from recbole_sigma.settings.keys import SigmaKeys
from recbole_sigma.settings.reader import read

HISTORIES: dict[str, dict[str, Any]] = {
    # Co-occurrence is dense: the newest items and the sum of the window say much, and so do vectors made of
    # it.
    "long": {
        "sigma_paths": ["recency", "interest"],
        "fusion_inputs": ["id", "text"],
        "fusion_hide_id": 0.0,
        "backbone_dropout": 0.3,
        "sigma_rdrop": 0.0,
        "train_batch_size": 32,
        "learning_rate": 0.002,
    },
    # Vectors of train co-occurrence know the train pairs that they meet, so paths and inputs made of them
    # overfit; the memory adds them at decoding. A user's few events are soon known by heart, by the trained
    # vectors of any of them: hiding some makes the trunk read the text too, and two passes that must agree
    # whatever was hidden or dropped out keep it from learning them. Less need be dropped then.
    "short": {
        "sigma_paths": [],
        "fusion_inputs": ["text"],
        "fusion_hide_id": 0.3,
        "backbone_dropout": 0.2,
        "sigma_rdrop": 1.0,
        "train_batch_size": 128,
        "learning_rate": 0.001,
    },
    # The paper's own: nothing by history.
    "paper": {
        "sigma_paths": [],
        "fusion_inputs": ["id", "text"],
        "fusion_hide_id": 0.0,
        "backbone_dropout": 0.3,
        "sigma_rdrop": 0.0,
        "train_batch_size": 32,
        "learning_rate": 0.002,
    },
}

# (labels of a row, share of the batches that carry labels) for JustForYou alone and for several tasks. Short
# rows hold few events: one label is as long as the row itself.
LABELS = {
    "long": ((1, 1.0), (4, 1.0)),
    "short": ((1, 0.2), (1, 0.5)),
    "paper": ((1, 1.0), (4, 1.0)),
}

# Where items have few events, a network that is regularised enough does not learn all pairs of items; where
# they have many, soft targets blur what it learns.
MANY = 30
"""Mean number of train events per item from which targets stay hard."""

SOFT = 0.15
"""``sigma_soft_targets`` below."""

EPOCHS = {False: 10, True: 20}
"""Passes over long histories by whether each draws the order of tied events anew (`train_tied`), which keeps
a network from learning the rows by heart; 10 over short ones."""

OBJECTIVES: dict[str, dict[str, Any]] = {
    "joint": {"sigma_mask_seen": True, "fusion_id_residual": True, "decode_mode": "fixed_temp"},
    # nothing of ours
    "paper": {"sigma_mask_seen": False, "fusion_id_residual": False, "decode_mode": "apf"},
}


class SIGMADataset(PackedDataset):
    """The dataset RecBole picks for the model named SIGMA."""

    cold_rows = True

    def build(self) -> list[Any]:
        """Split the events and settle the keys that the data decides; see `PackedDataset.build`."""
        datasets = super().build()
        packer = datasets[0].packer
        per_user, per_item = (
            len(each) / max(len(np.unique(each)), 1) for each in (packer.users, packer.items)
        )
        drawn = datasets[0].runs is not None
        settled = settle(self.config, per_user, per_item, wants_tasks(self, self.config), drawn)
        for dataset in datasets:
            dataset.settled = settled
        return datasets


def settle(
    config: Any, per_user: float, per_item: float, several: bool, drawn: bool = False
) -> tuple[str, ...]:
    """Fill in the keys that were left at ``~``, in place, and say why.

    Args:
        config: RecBole config with SIGMA's keys.
        per_user: mean number of train events per user.
        per_item: mean number of train events per item.
        several: instruction tasks beside JustForYou are trained.
        drawn: every epoch draws the order of tied events anew.

    Returns:
        The keys that were filled in.
    """
    keys = read(SigmaKeys, config)
    objective, history = keys.sigma_objective, keys.sigma_history
    chosen = ("long" if per_user >= LONG else "short") if history == "auto" else history
    preset = "paper" if objective == "paper" else chosen
    labels, share = LABELS[preset][several]
    values = {
        **HISTORIES[preset],
        **OBJECTIVES[objective],
        "epochs": EPOCHS[drawn and preset == "long"],
        "task_labels_per_row": labels,
        "task_label_share": share,
        "sigma_soft_targets": SOFT if objective == "joint" and per_item < MANY else 0.0,
    }
    settled = tuple(key for key in values if config[key] is None)
    for key in settled:
        config[key] = values[key]
    if objective == "joint":
        why = f"{per_user:.1f} train events per user on average, {LONG} or more are long"
        how = f"auto chose {chosen}: {why}" if history == "auto" else f"{chosen} ({why})"
        shown = ", ".join(f"{key} {config[key]}" for key in (*HISTORIES[chosen], "epochs"))
        many = f"{per_item:.1f} train events per item, {MANY} or more are many"
        soft = f"{config['sigma_soft_targets']} ({many})"
        logging.getLogger().info(f"sigma_history: {how}; {shown}; sigma_soft_targets {soft}")
    return settled
