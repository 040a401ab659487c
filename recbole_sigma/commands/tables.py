"""The command line's verbs that make tables: benchmark, demo, tune, report."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from recbole_sigma.commands.words import (
    FILES_AND_DATA,
    add_verb,
    check_words,
    protocol_line,
    say_smoke,
    shared_options,
)
from recbole_sigma.machine.terminal import visible
from recbole_sigma.values import UserError

DEMO_MODELS = ("Pop", "WindowItemKNN", "ClosedForm", "PackedSASRec", "SIGMA-tasks")
DEMO = """\
The demo trains two models on {dataset} and judges them beside baselines that need no training, all on the
same users and with the same rules. It takes about six minutes on two cores; nothing is downloaded.
  Pop            the most popular items, the same for everybody
  WindowItemKNN  items that stand near the user's newest items in other histories
  ClosedForm     the best sum of three linear models, solved and not trained
  PackedSASRec   a transformer over item numbers
  SIGMA-tasks    SIGMA: a language model over semantic IDs and item tokens, trained on instructions too
"""
DEMO_END = """\

How to read it: HR@10 is the share of users whose next item is among the ten that a model lists; NDCG@10
also counts how far up it stands. Items that a user has met already are never listed. With 943 users an HR@10
is known to about ±.013: report.html says which differences are more than chance.

Go on with
  {program} recommend --checkpoint=latest --history="Toy Story; Aladdin" --instruction="no animation"
  {program} tasks --checkpoint=latest
  {program} benchmark --models=SASRec-CE-30,SIGMA,SIGMA+memory --dataset={dataset} --seeds=1,2,3"""
_CELLS = {
    **FILES_AND_DATA,
    "seeds": "N,N  a cell per model and seed (2020)",
    "filter": "POLICY  filtered, unfiltered or both: what happens to seen items",
    "reference": "ROW  compare with this row, not with the best baseline",
}


def add(verbs: Any) -> None:
    """Declare the verbs."""
    models = {
        "models": "A,B,C  models, variants (SIGMA-*), files (SASRec:tuned.yaml, mine.yaml), +memory; or list"
    }
    parser = add_verb(
        verbs,
        "demo",
        demo,
        "SIGMA beside baselines on the MovieLens-100K inside RecBole, and what to do next",
        ("demo", "demo --seeds=1,2,3"),
        {
            "models": "A,B,C  other models",
            **_CELLS,
            "output": "FOLDER  where its folder goes (saved/results)",
        },
    )
    _add_force(parser)
    parser = add_verb(
        verbs,
        "benchmark",
        benchmark,
        "a table of models and seeds; run it again to continue after an interruption",
        (
            "benchmark --models=Pop,WindowItemKNN,PackedSASRec,SIGMA --dataset=ml-100k --seeds=1,2,3",
            'benchmark --models="SIGMA,SIGMA-*,SASRec-BCE,mine.yaml" --dataset=ml-100k --filter=both',
        ),
        {**models, **_CELLS, "output": "FOLDER  where the table goes (saved/benchmark/DATASET)"},
    )
    _add_force(parser)
    add_verb(
        verbs,
        "tune",
        tune,
        "search models on validation; the best settings become property files",
        (
            "tune --models=SIGMA,PackedSASRec --dataset=ml-100k --trials=10",
            "tune --model=SASRec --dataset=ml-100k --sampler=tpe --space=mine.yaml",
        ),
        {
            "-m model": "NAME  one model",
            "models": "A,B  several models",
            **FILES_AND_DATA,
            "seeds": "N  the seed of every trial (2020)",
            "trials": "N  trials per model, the shipped settings among them (20)",
            "budget": "SECONDS  CPU seconds per model after which no new trial starts",
            "sampler": "NAME  random, or tpe (needs hyperopt)",
            "space": "FILE  a search space in place of the shipped one",
            "output": "FOLDER  where the settings go (saved/tune)",
        },
    )
    add_verb(
        verbs,
        "report",
        report,
        "the tables, plots and report.html of a benchmark's folder, made again",
        (
            "report --output=saved/benchmark/ml-100k",
            "report --output=saved/benchmark/ml-100k --publish=results/ml-100k",
        ),
        {
            "output": "FOLDER  of the benchmark",
            "reference": _CELLS["reference"],
            "publish": "FOLDER  write the lean record there: table.md, cells.csv, commands.sh, two pictures",
        },
    )


def _add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="do finished cells again")


def _table(
    options: argparse.Namespace, rest: list[str], models: Sequence[str], dataset: str, folder: Path
) -> int:
    from recbole_sigma.benchmark.variants import rows_of

    shared = shared_options(options, rest, str(folder))
    seeds = _seeds(options)
    rows_of(models)  # a model that does not exist is told before torch is loaded
    check_words(rest, shared["config_file_list"], None, dataset, one_model=False)
    from recbole_sigma.benchmark import format_table, run_benchmark

    shared["output"] = folder
    record = run_benchmark(
        models, dataset, seeds, options.filter, force=options.force, reference=options.reference, **shared
    )
    if options.json:
        labels = {"labels": record["labels"]["table"]} if "labels" in record else {}
        kept = {"table": record["table"], **labels, "failed": record["outcome"]["failed"]}
        print(json.dumps({**kept, "results": str(folder / "results.json")}))
        _tell_corrected(record)
        return 1 if record["outcome"]["failed"] else 0
    _print_tables(record, format_table)
    for note in record["notes"]:
        print(f"note: {note}")
    outcome = record["outcome"]
    if outcome["kept"]:
        print(f"kept from before: {len(outcome['kept'])} cells (--force does them again)")
    for label in outcome["elsewhere"]:
        print(f"left to another process: {label}")
    for label in outcome["failed"]:
        print(visible(f"failed: {label}"), file=sys.stderr)
    print(f"results: {folder / 'results.json'}; open {folder / 'report.html'} in a browser")
    say_smoke(options)
    _tell_corrected(record)
    return 1 if outcome["failed"] else 0


def demo(options: argparse.Namespace, rest: list[str]) -> int:
    """The verb ``demo``."""
    models = options.models.split(",") if options.models else DEMO_MODELS
    dataset = options.dataset or "ml-100k"
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    where = "saved/smoke" if options.smoke else "saved/results"
    folder = Path(options.output or where) / f"demo-{dataset}-{stamp}"
    _seeds(options)  # a mistake is told before anything is printed
    told = not options.models and not options.json and not options.quiet
    if told:
        print(DEMO.format(dataset=dataset))
    code = _table(options, rest, models, dataset, folder)
    if told and not code:
        name = Path(sys.argv[0]).name
        print(DEMO_END.format(dataset=dataset, program=f"python {name}" if name.endswith(".py") else name))
    return code


def benchmark(options: argparse.Namespace, rest: list[str]) -> int:
    """The verb ``benchmark``."""
    if options.models == "list":
        from recbole_sigma.benchmark.variants import list_text

        print(list_text())
        return 0
    if not options.models or not options.dataset:
        raise UserError("benchmark needs --models=A,B,C and --dataset=NAME")
    kind = "smoke" if options.smoke else "benchmark"
    folder = Path(options.output or f"saved/{kind}/{options.dataset}")
    return _table(options, rest, options.models.split(","), options.dataset, folder)


def report(options: argparse.Namespace, rest: list[str]) -> int:
    """The verb ``report``."""
    if not options.output or rest:
        raise UserError(
            "report needs --output=FOLDER of a benchmark, and takes --reference=ROW and --publish=FOLDER"
        )
    from recbole_sigma.benchmark import format_table, rebuild_report

    record = rebuild_report(options.output, options.reference, options.publish)
    _print_tables(record, format_table, protocol=False)
    for note in record["notes"]:
        print(f"note: {note}")
    if options.publish:
        print(f"published: {options.publish}")
    else:
        print(f"report: {Path(options.output) / 'report.html'}")
    _tell_corrected(record)
    return 0


def _print_tables(record: dict[str, Any], format_table: Any, protocol: bool = True) -> None:
    """The table of ranked lists and that of the rows judged by labels, each below its protocol if asked."""
    for part in (record, record.get("labels")):
        if part and part["cells"]:
            if protocol:
                print(protocol_line(part["cells"][0]["protocol"]))
            print(format_table(part["table"]))


def _tell_corrected(record: dict[str, Any]) -> None:
    """End with a mistake where a cell was changed by hand: the tables are right, but someone should know."""
    if record["corrected"]:
        raise UserError(
            f"{'; '.join(record['corrected'])}: the file was changed since it was written. The tables and "
            "the file now hold what the places say; the same command will find nothing wrong"
        )


def tune(options: argparse.Namespace, rest: list[str]) -> int:
    """The verb ``tune``."""
    models = options.models or options.model
    if not models or not options.dataset or (options.models and options.model):
        raise UserError("tune needs --model=NAME or --models=A,B and --dataset=NAME")
    trials = int(_number(options.trials, "trials", 2 if options.smoke else 20))
    budget, seed = _number(options.budget, "budget", None), _seeds(options)[0]
    shared = shared_options(options, rest, "saved/tune")
    from recbole_sigma.benchmark.variants import rows_of

    for row in rows_of(models.split(",")):
        check_words(rest, shared["config_file_list"], row.base, options.dataset)
    from tabulate import tabulate

    from recbole_sigma.benchmark.tune import tune as search

    found = search(
        models.split(","),
        options.dataset,
        trials,
        budget,
        options.sampler or "random",
        seed,
        options.space,
        **shared,
    )
    head = ["model", "trials", "CPU s", "shipped", "best", "settings"]
    body = [
        [
            f["name"],
            f["trials"],
            f"{f['cpu_seconds']:.0f}",
            f"{f['shipped']:.4f}",
            f"{f['best']:.4f}",
            f["file"],
        ]
        for f in found
    ]
    print(tabulate(body, headers=head, disable_numparse=True))
    print("shipped, best: the valid_metric on validation of the shipped settings, and of the best trial")
    tuned = ",".join(f"{f['name']}:{f['file']}" for f in found)
    print(f"judge the best on test: benchmark --models={tuned} --dataset={options.dataset}")
    say_smoke(options)
    return 0


def _number(text: str | None, name: str, default: float | None) -> Any:
    """The positive number of an option."""
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e12 or (name == "trials" and value != int(value)):
        raise UserError(f"--{name} must be a positive number, not {text!r}")
    return value


def _seeds(options: argparse.Namespace) -> list[int]:
    text = options.seeds or "2020"
    try:
        seeds = [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds must be integers separated by commas, not {text!r}") from None
    if any(not 0 <= seed < 2**32 for seed in seeds):
        raise UserError(f"--seeds must lie in 0..{2**32 - 1}, not {text!r}")
    return seeds
