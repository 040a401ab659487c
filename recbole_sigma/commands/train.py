"""The verb ``train``, which may be left out: one model, trained and tested."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from recbole_sigma.commands.words import FILES_AND_DATA, add_verb, check_words, protocol_line, shared_options


def add(verbs: Any) -> None:
    """Declare the verb."""
    add_verb(
        verbs,
        "train",
        train,
        "train and test one model (the verb may be left out)",
        (
            "--model=SIGMA --dataset=ml-100k",
            "--model=SASRec --dataset=ml-100k --learning_rate=1e-3 --epochs=50",
        ),
        {
            "-m model": "NAME  a model of this package or of RecBole",
            **FILES_AND_DATA,
            "output": "FOLDER  where the result goes (saved/results)",
        },
    )


def train(options: argparse.Namespace, rest: list[str]) -> int:
    """Train and test one model."""
    shared = shared_options(options, rest, "saved/results")
    check_words(rest, shared["config_file_list"], options.model, options.dataset)
    output = shared.pop("output")
    if not options.quiet and not options.json and "state" in shared["config_dict"]:
        shared["config_dict"]["state"] = "INFO"
    from recbole_sigma.benchmark.cells import commit
    from recbole_sigma.benchmark.records import write_json
    from recbole_sigma.benchmark.results import format_table, result_path, single_record, summarize
    from recbole_sigma.machine import processes
    from recbole_sigma.quick_start import run, unreachable_sentence

    result = run(options.model, options.dataset, **shared)
    if result is None or not processes.current().main:
        return 0  # process 0 speaks for all
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
    print(f"checkpoint: {result['checkpoint']}\nresults: {path}")
    return 0
