"""Search for settings on validation, with the same budget for every model; the test set is never judged."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from recbole_sigma import __version__
from recbole_sigma.benchmark import space as spaces
from recbole_sigma.benchmark.cells import commit, now
from recbole_sigma.benchmark.folder import try_lock
from recbole_sigma.benchmark.plan import HISTORY, data_fingerprint, plain
from recbole_sigma.benchmark.variants import Row, rows_of
from recbole_sigma.machine.clock import cpu_seconds
from recbole_sigma.machine.files import fingerprint, write_atomically
from recbole_sigma.machine.progress import Progress
from recbole_sigma.models import registry
from recbole_sigma.models.contract import contract_class
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.reading import parse_arguments
from recbole_sigma.settings.recbole_keys import RecBoleKeys
from recbole_sigma.settings.recipes import settings_of
from recbole_sigma.values import UserError

FORMAT = 1


def tune(
    models: Sequence[str],
    dataset: str,
    trials: int,
    budget: float | None = None,
    sampler: str = "random",
    seed: int = 2020,
    space_file: str | None = None,
    config_file_list: Iterable[str] = (),
    config_dict: dict[str, Any] | None = None,
    arguments: Iterable[str] = (),
    output: Path | str = "saved/tune",
) -> list[dict[str, Any]]:
    """Search each model's space; trial 0 is the model as it is shipped.

    Args:
        models: words of ``--models``.
        dataset: dataset name.
        trials: trials per model, the shipped settings among them.
        budget: CPU seconds per model after which no new trial starts; None is no limit.
        sampler: ``random`` or ``tpe``.
        seed: seed of the draws and of every training.
        space_file: a search space in place of the shipped one.
        config_file_list: property files for every model.
        config_dict: values that outrank the files.
        arguments: ``--key=value`` words that outrank the dictionary; a key of the space is refused.
        output: folder of the logs and of the best settings.

    Returns:
        Per model: ``name``, ``trials``, ``cpu_seconds``, ``shipped``, ``best``, ``settings``, ``log`` and
        ``file``.

    Raises:
        UserError: for anything unusable, before the first training.
    """
    from recbole_sigma.data import checks as preflight
    from recbole_sigma.run.config import RunConfig

    if trials < 1:
        raise UserError(f"--trials must be at least 1, not {trials}")
    spaces.check_sampler(sampler)
    files, words, values = list(config_file_list), list(arguments), dict(config_dict or {})
    asked = parse_arguments(words, [])
    named = {key for file in files for key in settings_of(file, [])[0]} | asked.keys() | values.keys()
    limited = "MAX_ITEM_LIST_LENGTH" in named
    jobs = []
    for row in rows_of(models):
        space, _ = (
            (spaces.read_space(Path(space_file)), None) if space_file else spaces.space_of(row.name, row.base)
        )
        fixed = [key for key in space if key in asked or key in row.values]
        if fixed:
            raise UserError(
                f"{', '.join(fixed)} is both set and searched for {row.name}: take it out of one of the two"
            )
        whole = contract_class(registry.find_model(row.base) or object).whole_history
        limit = {} if limited or whole else {"MAX_ITEM_LIST_LENGTH": HISTORY}
        given = {**limit, **values, **row.values, "seed": seed}
        config = RunConfig(row.base, dataset, files, given, words)
        preflight.check_files(config, contract_class(config.model_class).needs_item_text)
        for key in space:  # a misspelt key is found now, not in trial 1
            RunConfig(row.base, dataset, files, {**given, key: _any_value(space[key])}, words)
        mark = fingerprint(
            config=plain(config, seed),
            space=space,
            sampler=sampler,
            data=data_fingerprint(config),
            version=__version__,
        )
        jobs.append((row, space, given, mark, config))
    show = bool(values.get("show_progress", True))
    quiet = {
        **({"show_progress": False} if len(jobs) * trials > 1 else {}),
        "state": values.get("state", "WARNING"),
    }
    found = []
    bar = Progress("Trials", len(jobs) * trials, enabled=show)
    try:
        for row, space, given, mark, config in jobs:
            search = Search(row, dataset, Path(output), files, {**given, **quiet}, words, mark)
            search.metric = read(RecBoleKeys, config).valid_metric
            search.sign = 1 if config["valid_metric_bigger"] else -1
            found.append(search.run(space, sampler, trials, seed, budget, bar))
    finally:
        bar.close()
    return found


def _any_value(field: dict[str, Any]) -> Any:
    return field["choices"][0] if "choices" in field else field["low"]


class Search:
    """The search of one row, with its log.

    Args:
        row: what is tuned.
        dataset: dataset name.
        folder: where log and settings go.
        files, values, words: settings as `quick_start.run` takes them.
        mark: fingerprint of everything that a trial's value depends on besides its point.

    Attributes:
        metric: the validation metric in force.
        sign: 1 where more of it is better, else -1.
    """

    metric, sign = "NDCG@10", 1

    def __init__(
        self,
        row: Row,
        dataset: str,
        folder: Path,
        files: list[str],
        values: dict[str, Any],
        words: list[str],
        mark: str,
    ) -> None:
        self.row, self.dataset, self.folder = row, dataset, folder
        self.files, self.values, self.words, self.mark = files, values, words, mark
        stem = f"{row.name}-{dataset}".replace("/", "_")
        self.log, self.file = folder / f"{stem}.jsonl", folder / f"{stem}.yaml"

    def run(
        self, space: spaces.Space, sampler: str, trials: int, seed: int, budget: float | None, bar: Progress
    ) -> dict[str, Any]:
        """Continue the log up to ``trials`` trials or the budget, and write the best settings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = try_lock(self.log.with_suffix(".lock"))
        if lock is None:
            raise UserError(f"another process is tuning into {self.log}: wait for it or use another --output")
        try:
            done = self._read()

            def objective(trial: int, point: dict[str, Any]) -> float | None:
                bar.say(f"{self.row.name}, trial {trial + 1} of {trials}")
                if trial < len(done):
                    if done[trial]["point"] != point:
                        raise UserError(
                            f"{self.log} was written by another version of the sampler (trial {trial} "
                            "differs): use another --output"
                        )
                else:
                    if budget is not None and sum(t["cpu_seconds"] for t in done) >= budget:
                        raise StopIteration
                    done.append(self._trial(trial, point))
                bar.advance()
                value = done[trial]["valid"]
                return None if value is None else self.sign * value

            objective(0, {})
            spaces.search(space, sampler, trials - 1, seed, lambda trial, point: objective(trial + 1, point))
        finally:
            self.log.with_suffix(".lock").unlink(missing_ok=True)
            lock.close()
        return self._finish(done)

    def _read(self) -> list[dict[str, Any]]:
        """Finished trials of the log; a line torn by a kill is dropped."""
        if not self.log.is_file():
            head = {"format": FORMAT, "mark": self.mark, "row": self.row.name, "created": now()}
            write_atomically(self.log, (json.dumps(head) + "\n").encode())
            return []
        lines = self.log.read_bytes().split(b"\n")
        if lines.pop():  # a log ends with a line feed
            write_atomically(self.log, b"".join(line + b"\n" for line in lines))
        try:
            head, *done = [json.loads(line) for line in lines]
        except ValueError as error:
            raise UserError(f"{self.log} is damaged ({error}): delete it or use another --output") from error
        if head.get("mark") != self.mark:
            raise UserError(
                f"{self.log} belongs to a search with other settings, space or data: delete it or use "
                "another --output"
            )
        return done

    def _trial(self, trial: int, point: dict[str, Any]) -> dict[str, Any]:
        """Train one point and append it to the log."""
        wall, cpu = time.perf_counter(), cpu_seconds()
        error = None
        outcome: dict[str, Any] = {"valid": None, "metrics": {}, "best_epoch": None, "epochs": 0}
        try:
            outcome = fit(self.row.base, self.dataset, self.files, {**self.values, **point}, self.words)
        except Exception as problem:  # a point may diverge; the search goes on
            if trial == 0:
                raise
            error = f"{type(problem).__name__}: {problem}"
        record = {
            "trial": trial,
            "point": point,
            **outcome,
            "error": error,
            "cpu_seconds": round(cpu_seconds() - cpu, 3),
            "seconds": round(time.perf_counter() - wall, 3),
        }
        with self.log.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        return record

    def _finish(self, done: list[dict[str, Any]]) -> dict[str, Any]:
        """Write the best settings as a property file; on equal values the earlier trial wins."""
        best = max(
            (t for t in done if t["valid"] is not None), key=lambda t: (self.sign * t["valid"], -t["trial"])
        )
        cpu = sum(trial["cpu_seconds"] for trial in done)
        settings = {**self.row.values, **best["point"]}
        command = " ".join(["python run_recbole_sigma.py", *sys.argv[1:]])
        head = [
            f"{self.row.name} on {self.dataset}: best of {len(done)} trials on validation (test not read).",
            f"Command: {command}",
            f"Result: validation {self.metric} {best['valid']:.4f} in trial {best['trial']}, "
            f"epoch {best['best_epoch']}; {done[0]['valid']:.4f} with the shipped settings",
            f"Seconds: {cpu:.0f} CPU for the search, {best['cpu_seconds']:.0f} for the best trial; "
            f"{len([t for t in done if t['error']])} failed trials",
            f"Made: {now()}, recbole-sigma {__version__}, commit {commit()}, {best.get('device', '')}",
            f"Use: benchmark --models={self.row.base}:<this file>, or --config_files=<this file>",
        ]
        text = "".join(f"# {line}\n" for line in head)
        text += (
            yaml.safe_dump(settings, sort_keys=False) if settings else "# the shipped settings are the best\n"
        )
        write_atomically(self.file, text.encode())
        return {
            "name": self.row.name,
            "trials": len(done),
            "cpu_seconds": cpu,
            "shipped": done[0]["valid"],
            "best": best["valid"],
            "settings": settings,
            "log": self.log,
            "file": self.file,
        }


def fit(
    model: str, dataset: str, files: Iterable[str], values: dict[str, Any], words: Iterable[str]
) -> dict[str, Any]:
    """Train once and judge on validation alone.

    Returns:
        ``valid`` (the validation metric's best value), ``metrics`` of that epoch, ``best_epoch``, ``epochs``.
    """
    from recbole_sigma import quick_start
    from recbole_sigma._compat import repaired_model
    from recbole_sigma.run import loaders
    from recbole_sigma.run.config import RunConfig

    config = RunConfig(model, dataset, list(files), values, words)
    model_class = repaired_model(config.model_class)
    quick_start.start_log(config)
    data = loaders.load_data(config, model_class)
    trainer = quick_start.build_trainer(config, quick_start.build_model(config, model_class, data.train))
    trainer.judge.collector.data_collect(data.train)
    score, metrics = trainer.fit(
        data.train, data.valid, saved=False, show_progress=read(RecBoleKeys, config).show_progress
    )
    return {
        "valid": float(score),
        "metrics": dict(metrics or {}),
        "best_epoch": trainer.best_epoch,
        "epochs": len(trainer.history),
        "device": str(config["device"]),
    }
