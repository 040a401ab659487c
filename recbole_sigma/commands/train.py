"""The verb ``train``, which may be left out: one model, trained and tested."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from recbole_sigma.benchmark.variants import Row, rows_of
from recbole_sigma.commands.words import (
    FILES_AND_DATA,
    add_verb,
    check_words,
    protocol_line,
    say_smoke,
    shared_options,
)
from recbole_sigma.models import registry
from recbole_sigma.values import UserError


def add(verbs: Any) -> None:
    """Declare the verb."""
    add_verb(
        verbs,
        "train",
        train,
        "train and test one model (the verb may be left out)",
        (
            "--model=SIGMA --dataset=ml-100k",
            "--model=SIGMA-ID+memory --dataset=ml-100k --learning_rate=1e-3",
        ),
        {
            "-m model": "NAME  a model, or a row of benchmark (SIGMA-ID, SASRec+memory); list names them all",
            **FILES_AND_DATA,
            "output": "FOLDER  where the result goes (saved/results)",
        },
    )


def row_called(name: str | None) -> Row | None:
    """The row of a table that is no model's own name (``SIGMA-ID``, ``SASRec+memory``); None for a model.

    Raises:
        UserError: a name that means nothing, or several rows.
    """
    if name is None or registry.names_file(name) or registry.is_model(name):
        return None
    rows = rows_of([name])
    if len(rows) > 1:
        raise UserError(
            f"--model={name} names {len(rows)} rows: give one of {', '.join(r.name for r in rows)}"
        )
    return rows[0]


def train(options: argparse.Namespace, rest: list[str]) -> int:
    """Train and test one model, or one row of a table by its name."""
    shared = shared_options(options, rest, "saved/results")
    row = row_called(options.model)
    model = options.model if row is None else row.base
    check_words(rest, shared["config_file_list"], model, options.dataset)
    if row is not None:
        shared["config_dict"] = {**row.values, **shared["config_dict"]}
    output = shared.pop("output")
    if not options.quiet and not options.json and "state" in shared["config_dict"]:
        shared["config_dict"]["state"] = "INFO"
    from recbole_sigma.benchmark.cells import commit
    from recbole_sigma.benchmark.records import write_json
    from recbole_sigma.benchmark.results import format_table, result_path, single_record, summarize
    from recbole_sigma.machine import processes
    from recbole_sigma.quick_start import run, unreachable_sentence

    result = run(model, options.dataset, **shared)
    if result is None or not processes.current().main:
        return 0  # process 0 speaks for all
    if row is not None:
        result["model"] = row.name
    plain = single_record(result)
    rows = summarize([plain])
    path = result_path(Path(output), result["model"], result["dataset"])
    write_json(
        path,
        {
            "format": 1,
            "command": sys.argv,
            "dataset": result["dataset"],
            "commit": commit(),
            "machine": result["machine"],
            "versions": result["versions"],
            "protocol": result["protocol"],
            "cells": [plain],
            "failed": [],
            "table": rows,
        },
    )
    if options.json:
        kept = ("model", "dataset", "seed", "test_result", "best_valid_result", "best_epoch", "checkpoint")
        print(json.dumps({**{key: plain[key] for key in kept}, "results": str(path)}))
        return 0
    print(protocol_line(result["protocol"]))
    if result["unreachable_targets"]:
        print(unreachable_sentence(result["test"]))
    print(format_table(rows))
    if any("policy" in epoch for epoch in result["history"]):
        from recbole_sigma.policy.figures import summary

        metric = str(result["config"]["valid_metric"]).lower()
        print("\n".join(summary(result["history"], result["best_epoch"], metric)))
    print(f"checkpoint: {result['checkpoint']}\nresults: {path}")
    say_smoke(options)
    return 0
