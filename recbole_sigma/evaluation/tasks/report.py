"""Reports of the tasks: the rows of the training loop, and the whole comparison of a checkpoint."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from recbole_sigma.evaluation.judge import Judgement
from recbole_sigma.evaluation.tasks.baselines import BM25, Neighbours, Popularity, QueryTable, Trained
from recbole_sigma.evaluation.tasks.bench import LIST, Lists, Selected, TaskBench, paired_lift, wrong_slots
from recbole_sigma.instructions.rules import TaskRows
from recbole_sigma.instructions.tasks import GENERAL
from recbole_sigma.models.contract import contract
from recbole_sigma.settings.keys import TaskKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.recbole_keys import RecBoleKeys
from recbole_sigma.understanding.lexicon import Lexicon
from recbole_sigma.understanding.reader import Understanding
from recbole_sigma.understanding.wording import instruction


def general_rec(reported: dict[str, tuple[int, float]]) -> dict[str, float]:
    """GeneralRec (our definition): macro and micro mean of hit@10 over the reported tasks.

    Args:
        reported: task -> (rows, hit@10).

    >>> general_rec({"A": (1, 1.0), "B": (3, 0.0)})
    {'hit@10[generalrec macro]': 0.5, 'hit@10[generalrec micro]': 0.25}
    """
    if not reported:
        return {}
    n = sum(rows for rows, _ in reported.values())
    return {
        f"hit@{LIST}[generalrec macro]": sum(value for _, value in reported.values()) / len(reported),
        f"hit@{LIST}[generalrec micro]": sum(rows * value for rows, value in reported.values()) / n,
    }


def quick_rows(bench: TaskBench) -> OrderedDict[str, float]:
    """Metric rows of the training loop: ``hit@10[query]`` and so on, with controls and lift."""
    out: OrderedDict[str, float] = OrderedDict()
    reported: dict[str, tuple[int, float]] = {}
    for name, found in bench.tasks.rows.items():
        rows = bench.select(name)
        if name == GENERAL or len(rows.index) < found.task.minimum_test_rows:
            continue
        tag = name.lower()
        task, general = bench.instructed(rows, bench.texts(name, rows)), bench.general(rows)
        out[f"rows[{tag}]"] = float(len(rows.index))
        for k in bench.topk:
            out[f"hit@{k}[{tag}]"] = float(task.hits(k).mean())
            out[f"ndcg@{k}[{tag}]"] = float(task.gains(k).mean())
        suited = bench.in_slot(name, rows, task)
        if suited is not None:
            out[f"in_slot@{LIST}[{tag}]"] = suited
        out[f"hit@{LIST}[{tag}|justforyou]"] = float(general.hits(LIST).mean())
        lift = paired_lift(rows.users, task.hits(LIST), general.hits(LIST))
        out |= {f"{key}@{LIST}[{tag}]": lift[key] for key in ("lift", "low", "high")}
        if found.slots.shape[1]:
            slots = wrong_slots(found.slots[rows.own, 0])
            wrong = bench.instructed(rows, bench.texts(name, rows, slots=slots))
            out[f"hit@{LIST}[{tag}|wrong slot]"] = float(wrong.hits(LIST).mean())
        reported[name] = (len(rows.index), float(task.hits(LIST).mean()))
    rows = bench.select(GENERAL)
    if reported and len(rows.index):
        reported[GENERAL] = (len(rows.index), float(bench.general(rows).hits(LIST).mean()))
    out |= general_rec(reported)
    return out


def add_task_rows(judgement: Judgement, model: Any, loader: Any, config: Any) -> Judgement:
    """A test judgement with the rows of the model's tasks; unchanged for other models and other parts."""
    labels = contract(model).task_labels
    if labels is None or not len(loader._dataset.inter_feat):
        return judgement
    dataset = loader._dataset
    if dataset.event_part[int(dataset.inter_feat[dataset.time_field][0])] != 2:
        return judgement
    decimals = read(RecBoleKeys, config).metric_decimal_place
    rows = quick_rows(TaskBench(model, loader, config, read(TaskKeys, config).task_eval_rows))
    metrics = OrderedDict(judgement.metrics)
    metrics.update((name, round(value, decimals)) for name, value in rows.items())
    return dataclasses.replace(judgement, metrics=metrics)


def full_report(bench: TaskBench, train: Any, others: dict[str, Any], modes: Sequence[str]) -> dict[str, Any]:
    """Everything about a model's tasks: conditions, lifts, baselines, fusion modes, seen and unseen queries.

    Args:
        bench: the rows and the model.
        train: the train dataset, for the baselines' statistics.
        others: name -> trained RecBole model whose scores are masked by the slot.
        modes: fusion modes to compare, or none.

    Returns:
        Plain values: ``tasks`` (per task rows, figures per condition, lifts of the task instruction over each
        other condition, modes), ``skipped`` (sentences), ``generalrec``.
    """
    popularity = Popularity(bench.tasks.material)
    understanding = Understanding(Lexicon(bench.tasks.material, bench.tasks.rows))
    scorers: dict[str, Any] = {
        "popularity": popularity,
        "WindowItemKNN": Neighbours(train, bench.config, popularity),
        **{name: Trained(model) for name, model in others.items()},
    }
    report: dict[str, Any] = {"tasks": {}, "skipped": dict(bench.tasks.off)}
    reported: dict[str, tuple[int, float]] = {}
    for name, found in bench.tasks.rows.items():
        rows = bench.select(name)
        if len(rows.index) < found.task.minimum_test_rows:
            report["skipped"][name] = (
                f"{name}: {len(rows.index)} rows, and below {found.task.minimum_test_rows} no figure is given"
            )
            continue
        lists = _conditions(bench, name, found, rows, scorers, popularity, understanding)
        hits = {label: own.hits(LIST) for label, own in lists.items()}
        entry: dict[str, Any] = {
            "rows": len(rows.index),
            "version": found.task.version,
            "slot": found.kind or "none",
            "figures": {label: bench.figures(name, rows, own) for label, own in lists.items()},
            "lifts": {
                label: paired_lift(rows.users, hits["task"], own)
                for label, own in hits.items()
                if label != "task"
            },
            "modes": _modes(bench, name, rows, modes),
        }
        if found.kind == "typed":
            entry["queries"] = _seen_and_unseen(found, rows, hits)
        if found.match is not None and found.slots.shape[1]:
            values, counts = np.unique(found.slots[rows.own, 0], return_counts=True)
            sizes = np.array([found.match(int(value))[1:].sum() for value in values])
            entry["matching items, mean"] = float((sizes * counts).sum() / counts.sum())
        report["tasks"][name] = entry
        reported[name] = (len(rows.index), float(hits["task"].mean()))
    report["generalrec"] = general_rec(reported)
    return report


def _conditions(
    bench: TaskBench,
    name: str,
    found: TaskRows,
    rows: Selected,
    scorers: dict[str, Any],
    popularity: Popularity,
    understanding: Understanding,
) -> dict[str, Lists]:
    """Lists of a task's rows: the instruction, its controls, the baselines with the same information."""
    general = bench.general(rows)
    lists = {"task": general if name == GENERAL else bench.instructed(rows, bench.texts(name, rows))}
    lists["trained wordings"] = bench.instructed(rows, bench.mixed_texts(name, rows))
    held_out = bench.texts(name, rows, held_out=True)
    lists["held-out wording"] = bench.instructed(rows, held_out)
    # as `recommend` does it: the sentence is understood, and the model reads the wording of training
    read_as = {text: instruction(understanding.read(text), bench.tasks.rows) for text in set(held_out)}
    lists["held-out wording, understood"] = bench.instructed(rows, [read_as[text] for text in held_out])
    if name != GENERAL:
        lists["JustForYou"] = general
    if found.slots.shape[1]:
        wrong = wrong_slots(found.slots[rows.own, 0])
        lists["wrong slot"] = bench.instructed(rows, bench.texts(name, rows, slots=wrong))
    slots, allowed = bench.slot_texts(name, rows), bench.allowed(name, rows)
    for label, scorer in scorers.items():
        lists[label if allowed is None else f"{label}, masked"] = bench.scored(rows, scorer, slots, allowed)
    if found.task.rule == "query":
        material = bench.tasks.material
        lists["BM25"] = bench.scored(rows, BM25(material, popularity), slots)
        lists["query table"] = bench.scored(rows, QueryTable(found, material, popularity), slots)
    return lists


def _seen_and_unseen(found: TaskRows, rows: Selected, hits: dict[str, np.ndarray]) -> dict[str, Any]:
    """hit@10 on queries that training knows and on new ones."""
    known = found.slots[rows.own, 0] < found.known
    out: dict[str, Any] = {}
    for label, part in (("seen", known), ("unseen", ~known)):
        out[label] = {"rows": int(part.sum())}
        out[label] |= {name: float(own[part].mean()) for name, own in hits.items() if part.any()}
    return out


def _modes(bench: TaskBench, name: str, rows: Selected, modes: Sequence[str]) -> dict[str, Any]:
    """Figures of the task's instruction under each fusion mode."""
    before, out = bench.model.decoding, {}
    try:
        for mode in modes:
            bench.model.decoding = dataclasses.replace(before, mode=mode)
            out[mode] = bench.figures(name, rows, bench.instructed(rows, bench.texts(name, rows)))
    finally:
        bench.model.decoding = before
    return out
