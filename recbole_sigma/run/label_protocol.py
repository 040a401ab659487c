"""Settings of models scored by labels: what holds in place of the list protocol, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from recbole.evaluator.register import metric_types
from recbole.utils import EvaluatorType, ModelType

from recbole_sigma.models.contract import contract_class, learns_from_labels
from recbole_sigma.settings import recipes
from recbole_sigma.settings.reading import nearest

LABELS, LISTS = "labels", "lists"
GPSD = "gpsd"  # of label_rows
RULES = ("eval_args", "metrics", "topk", "valid_metric", "filter_seen", "metric_decimal_place")
"""Keys of a data set's own property file that speak of ranked lists."""
_LEAKS = {
    "normalize_all": "numeric_scaling: standard",
    "normalize_field": "numeric_scaling: standard",
    "discretization": "numeric_scaling: log",
}


def resolved(model_class: Any, asked: Mapping[str, Any]) -> str:
    """``labels`` or ``lists``: what ``judged_by`` comes to for a model.

    Args:
        model_class: the model.
        asked: what the user gave.
    """
    word = str(asked.get("judged_by") or "auto").lower()
    if word in (LABELS, LISTS):
        return word
    return LABELS if learns_from_labels(model_class) else LISTS


def defaults(model_class: Any, dataset: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The label protocol of a model on a data set, under what the user gave.

    A sequential model reads the events before a row, so its rows are split in order of time.
    """
    values = copy.deepcopy(recipes.label_defaults("" if asked.get("label_rows") == GPSD else dataset))
    if model_class.type == ModelType.SEQUENTIAL:
        values["eval_args"].update(order="TO", group_by="user")
    return values


def own_rows(final: dict[str, Any]) -> list[str]:
    """Take out of resolved settings, in place, what makes labels where GPSD's protocol makes them; a problem
    where the run is judged by lists.
    """
    if final["label_rows"] != GPSD:
        return []
    final["threshold"] = None
    if final["judged_by"] == LABELS:
        return []
    return ["label_rows: gpsd makes labelled rows: write judged_by: labels"]


def split_of(config: Any) -> dict[str, Any]:
    """``eval_args`` as they hold: with files of a published split, its split is theirs."""
    files, args = config["benchmark_filename"], config["eval_args"]
    if config["label_rows"] == GPSD:
        return {**args, "split": {GPSD: config["gpsd_negatives"]}, "order": "TO", "group_by": "user"}
    return args if files is None else {**args, "split": {"files": list(files)}, "order": "as given"}


def beside_data(values: dict[str, Any]) -> dict[str, Any]:
    """A data set's own property file without its list protocol; one that speaks of labels stays whole."""
    arguments = values.get("eval_args")
    if isinstance(arguments, dict) and arguments.get("mode") == "labeled":
        return values
    return {key: value for key, value in values.items() if key not in RULES}


def problems(model_class: Any, final: Mapping[str, Any]) -> list[str]:
    """Sentences about resolved settings under which rows cannot be scored by their labels."""
    name, found = model_class.__name__, []
    if not learns_from_labels(model_class) and not contract_class(model_class).learns_labels:
        return [
            "judged_by: labels needs a model that learns from labels (context-aware models, DIN, DIEN, SORT, "
            f"GateSID, PackedSASRec), and {name} makes lists: leave judged_by out"
        ]
    made = final["label_rows"] == GPSD
    if made and model_class.type != ModelType.SEQUENTIAL:
        found.append(f"label_rows: gpsd gives a history to every row, and {name} reads none: leave it out")
    if not made and contract_class(model_class).learns_labels:
        found.append(f"judged_by: labels makes rows for {name} by GPSD's protocol: write label_rows: gpsd")
    known = sorted(metric for metric, kind in metric_types.items() if kind == EvaluatorType.VALUE)
    metrics = [str(metric).lower() for metric in final["metrics"]]
    for metric in metrics:
        if metric == "gauc":
            found.append(
                "metric GAUC of RecBole ranks the whole catalogue: for labelled rows write GAUC_CTR, the "
                "mean AUC of the users weighted by their rows"
            )
        elif metric not in metric_types:
            found.append(f"unknown metric {metric!r}{nearest(metric, known)}")
        elif metric not in known:
            found.append(
                f"metric {metric} reads ranked lists, but {name} is judged by labels: take "
                f"{', '.join(known)}, or set judged_by: lists"
            )
    if str(final["valid_metric"]).lower() not in metrics:
        found.append(
            f"valid_metric {final['valid_metric']!r} is not computed: metrics are "
            f"{', '.join(final['metrics'])}"
        )
    if not final.get("LABEL_FIELD"):
        found.append("LABEL_FIELD is empty, but models judged by labels learn from it: name a column")
    if final.get("memory") not in (None, "none"):
        found.append(f"memory: the collaborative memory fuses ranked lists, and {name} is judged by labels")
    for key, instead in _LEAKS.items():
        if final.get(key):
            found.append(
                f"{key} takes its statistics from every row, test rows too: leave it out, and write {instead}"
            )
    return found + _split_problems(name, final)


def _split_problems(name: str, final: Mapping[str, Any]) -> list[str]:
    args = final["eval_args"]
    if not isinstance(args, dict):  # told by the check of the split
        return []
    found = []
    modes = args["mode"].values() if isinstance(args["mode"], dict) else [args["mode"]]
    for mode in dict.fromkeys(modes):
        if mode != "labeled":
            found.append(
                f"eval_args: mode {mode!r} does not judge labelled rows: write mode: labeled, or judged_by: "
                f"lists to rank the catalogue with {name}"
            )
    time = final["TIME_FIELD"]
    if args.get("order") == "RO" and time in (final.get("numerical_features") or ()):
        found.append(
            f"numerical_features names {time!r}, but rows are split at random: a row would be told by the "
            "rows of the same moment; take it out, or write eval_args: {order: TO}"
        )
    return found
