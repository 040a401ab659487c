"""Run any model, RecBole's or ours, under one protocol; the counterpart of ``recbole.quick_start``."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterable
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole.utils import get_trainer, init_seed

from recbole_sigma._compat import repaired_model
from recbole_sigma.data import checks as preflight
from recbole_sigma.evaluation.judge import Judge, Judgement
from recbole_sigma.evaluation.labels import LabelJudgement, judge_of
from recbole_sigma.evaluation.tasks.report import add_task_rows
from recbole_sigma.machine import processes as distributed
from recbole_sigma.machine import resources
from recbole_sigma.machine.clock import cpu_seconds
from recbole_sigma.machine.files import reading
from recbole_sigma.models import registry
from recbole_sigma.models.contract import contract_class
from recbole_sigma.models.ensemble import class_of
from recbole_sigma.policy.stage import PolicyStage
from recbole_sigma.run import checkpoint as files
from recbole_sigma.run.config import RunConfig, rebuild_config
from recbole_sigma.run.launch import launch, wanted_processes
from recbole_sigma.run.loaders import load_data
from recbole_sigma.run.logs import FILE_ONLY, say_protocol, start_log, unreachable_sentence
from recbole_sigma.run.policy import make_policy_trainer
from recbole_sigma.run.refusals import recbole_refuses
from recbole_sigma.run.resume import continue_run, open_run
from recbole_sigma.run.trainer import make_trainer
from recbole_sigma.settings.policy_keys import PolicyKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.recbole_keys import RecBoleKeys


def run(
    model: str | type | None = None,
    dataset: str | None = None,
    config_file_list: Iterable[str] | None = None,
    config_dict: dict[str, Any] | None = None,
    saved: bool = True,
    arguments: Iterable[str] = (),
) -> Any:
    """Train and test one model, in as many processes as ``nproc`` says.

    Args:
        model: name or class, RecBole's or ours; or ``my_model.py:MyModel``, a class of the user's own.
        dataset: name of a folder in ``data_path``, or ``ml-100k``.
        config_file_list: property files; later ones win.
        config_dict: values that outrank the files.
        saved: write a checkpoint of the best epoch.
        arguments: ``--key=value`` words that outrank the dictionary.

    Returns:
        RecBole's result (``best_valid_score``, ``valid_score_bigger``, ``best_valid_result``,
        ``test_result``) plus ``test`` (a `Judgement` or a `LabelJudgement`), ``history``, ``best_epoch``,
        ``seconds``, ``protocol``, ``config``, ``parameters``, ``peak_memory``, ``machine``, ``checkpoint``,
        ``loaders``.
        Of several processes, seconds and memory are those of process 0. None on a machine without process 0.

    Raises:
        UserError: for anything in the settings or the data that makes the run impossible, before training.
    """
    started, cpu = time.perf_counter(), cpu_seconds()
    resources.restart_peak_memory()
    if isinstance(model, str) and registry.names_file(model):
        model = registry.from_file(model).__name__
    files_, words = list(map(str, config_file_list or ())), list(arguments)
    config = RunConfig(model, dataset, files_, config_dict, words)
    if wanted_processes(config)[1] > 1 and not distributed.current().several:
        call = {"model": model, "dataset": dataset, "config_file_list": files_, "config_dict": config_dict}
        preflight.check_files(config, contract_class(config.model_class).needs_item_text)
        result = launch(config, {**call, "saved": saved, "arguments": words})
        return result and {**result, "loaders": load_data(config, repaired_model(config.model_class))}
    policy = policy_keys(config)
    if policy is not None and policy.policy_from is None:
        if policy.policy != "sft":  # a mistake of the second stage is told before the first
            train = load_data(config, repaired_model(config.model_class)).train._dataset
            PolicyStage(config, train, config.model_class)
        return in_two_stages(model, dataset, files_, dict(config_dict or {}), saved, words)
    distributed.join(config["device"])
    model_class = repaired_model(config.model_class)
    start_log(config)
    logger = getLogger()
    logger.info(config, extra=FILE_ONLY)
    start = (
        None
        if policy is None
        else files.read(str(policy.policy_from), model=config["model"], dataset=config["dataset"])
    )
    data = load_data(config, model_class)
    config.keep_settled(data.train._dataset.settled)
    prepared, cpu_data = time.perf_counter(), cpu_seconds()
    folder = open_run(config, saved)
    train_data = data.train
    if start is None:
        network = build_model(config, model_class, data.train)
        trainer = build_trainer(config, network)
    else:
        network = build_started(config, model_class, data.train, start)
        trainer = build_trainer(config, network, make_policy_trainer)
        train_data = trainer.prepare(data.train, start)
    if folder is not None:
        continue_run(trainer, folder, data)
    logger.info(network, extra=FILE_ONLY)
    say_protocol(config, logger)
    built, cpu_model = time.perf_counter(), cpu_seconds()
    trainer.judge.collector.data_collect(data.train)
    stock = read(RecBoleKeys, config)
    with recbole_refuses(f"train {config['model']}", _KEYS.format(config["model"])):
        best_score, best_result = trainer.fit(
            train_data, data.valid, saved=saved, show_progress=stock.show_progress
        )
    trained, cpu_train = time.perf_counter(), cpu_seconds()
    if saved:
        trainer.load(trainer.saved_model_file)
    test = trainer.judge.judge(trainer.model, data.test, progress=stock.show_progress, label="Test")
    test = add_task_rows(test, trainer.model, data.test, config)
    if best_result is None and len(data.valid._dataset):  # no validation during training (eval_step: 0)
        best_result = trainer.judge.judge(trainer.model, data.valid).metrics
        best_score = best_result[stock.valid_metric.lower()]
    trainer.finish()
    if trainer.tracker is not None:
        trainer.tracker.close({f"test/{name}": value for name, value in test.metrics.items()})
    if folder is not None:
        folder.close()
    logger.info(f"best valid: {dict(best_result or {})}")
    logger.info(f"test result: {dict(test.metrics)}")
    if test.unreachable:
        logger.info(unreachable_sentence(test))
    return {
        "model": config["model"],
        "dataset": config["dataset"],
        "seed": config["seed"],
        "best_valid_score": float(best_score),
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": dict(best_result or {}),
        "test_result": dict(test.metrics),
        "test": test,
        "unreachable_targets": test.unreachable,
        "memory_weight": trainer.judge.memory.weight,
        "history": trainer.history,
        "best_epoch": trainer.best_epoch,
        "seconds": {
            "total": time.perf_counter() - started,
            "data": prepared - started,
            "model": built - prepared,
            "train": trained - built,
            "test": test.seconds,
            "cpu": cpu_seconds() - cpu,
            "cpu_data": cpu_data - cpu,
            "cpu_model": cpu_model - cpu_data,
            "cpu_train": cpu_train - cpu_model,
            "cpu_test": cpu_seconds() - cpu_train,
        },
        "parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "protocol": config.protocol(),
        "config": config.requested,
        "peak_memory": resources.peak_memory(),
        "machine": resources.machine(str(config["device"])),
        "versions": files.library_versions(),
        "checkpoint": trainer.saved_model_file if saved else None,
        "loaders": data,
    }


def policy_keys(config: Any) -> PolicyKeys | None:
    """The keys of the policy stage where one is asked for."""
    keys = read(PolicyKeys, config) if "policy" in config else PolicyKeys()
    return None if keys.policy == "none" else keys


def in_two_stages(
    model: Any, dataset: str | None, files_: list[str], values: dict[str, Any], saved: bool, words: list[str]
) -> Any:
    """The supervised training, then the policy stage from its best checkpoint: each a run of its own.

    The first is the run of the same command without policy keys, its folder of state too.

    Args:
        model: see `run`.
        dataset: likewise.
        files_: property files.
        values: values that outrank the files.
        saved: write a checkpoint.
        words: words that outrank the values.

    Returns:
        What `run` gives for the second; ``supervised`` holds the figures of the first, ``seconds`` those of
        both.
    """
    plain = {key: value for key, value in values.items() if not key.startswith("policy")}
    other = [word for word in words if not word.removeprefix("--").startswith("policy")]
    with contextlib.ExitStack() as stack:
        if not saved:
            plain["checkpoint_dir"] = stack.enter_context(tempfile.TemporaryDirectory())
        first = run(model, dataset, files_, {**plain, "policy": "none"}, True, other)
        if first is None:
            return None
        getLogger().info(f"policy stage: it goes on from {first['checkpoint']}")
        second = run(model, dataset, files_, {**values, "policy_from": first["checkpoint"]}, saved, words)
    kept = ("test_result", "best_valid_result", "best_epoch", "history", "seconds", "checkpoint")
    spent = {name: value + first["seconds"][name] for name, value in second["seconds"].items()}
    return {**second, "seconds": spent, "supervised": {name: first[name] for name in kept}}


_KEYS = "check the settings that it names (--help --model={} lists them)"


def build_model(config: Any, model_class: type, train: Any) -> Any:
    """Build a model on the train data, from the seed alone.

    Of several processes rank 0 builds first: it prepares the items, and the others read what it stored.
    Their weights are the same; their later draws (negatives, dropout) are their own.
    """
    world = distributed.current()
    if not world.main:
        distributed.wait()
    init_seed(config["seed"], config["reproducibility"])
    with recbole_refuses(f"build {config['model']}", _KEYS.format(config["model"])):
        model = class_of(config, model_class)(config, train._dataset).to(config["device"])
    if world.main:
        distributed.wait()
    else:
        init_seed(config["seed"] + world.rank, config["reproducibility"])
    return model


def build_started(config: Any, model_class: type, train: Any, start: files.Checkpoint) -> Any:
    """A model with the weights and the prepared items of a checkpoint."""
    extra = files.extra_of(start)
    if extra:
        train._dataset.use_prepared(extra)
    model = build_model(config, model_class, train)
    files.load_weights(model, start)
    return model


def build_trainer(config: Any, model: Any, make: Callable[[type], type] = make_trainer) -> Any:
    """The trainer that RecBole would choose, with our evaluator and checkpoints.

    Args:
        config: resolved config.
        model: what is trained.
        make: what puts our trainer before RecBole's.
    """
    Path(config["checkpoint_dir"]).mkdir(parents=True, exist_ok=True)  # RecBole's own check is a race
    with recbole_refuses(f"build the trainer of {config['model']}", _KEYS.format(config["model"])):
        return make(get_trainer(config["MODEL_TYPE"], config["model"]))(config, model)


# --- reloading ---


def load_data_and_model(
    model_file: str, overrides: dict[str, Any] | None = None
) -> tuple[Any, Any, Any, Any, Any, Any]:
    """RecBole's function for our checkpoints; nothing is unpickled.

    Args:
        model_file: the checkpoint.
        overrides: config keys to change, such as ``data_path`` on another machine.

    Returns:
        (config, model, dataset, train_data, valid_data, test_data)
    """
    saved = files.read(model_file)
    with reading(model_file, files.AGAIN):
        config = rebuild_config(saved.meta["config"], overrides)
    model_class = repaired_model(config.model_class)
    extra = files.extra_of(saved)
    data = load_data(config, model_class)
    # with items prepared in the file, what the model raises about them is the file's damage
    with reading(model_file, files.AGAIN) if extra else contextlib.nullcontext():
        if extra:
            data.train._dataset.use_prepared(extra)
        model = build_model(config, model_class, data.train)
    files.load_weights(model, saved)
    model.eval()
    return config, model, data.dataset, data.train, data.valid, data.test


def evaluate_checkpoint(
    model_file: str,
    overrides: dict[str, Any] | None = None,
    filter_seen: bool | None = None,
    phase: str = "test",
) -> Judgement | LabelJudgement:
    """Judge a saved model again, with other metrics or policy if wanted.

    Args:
        model_file: the checkpoint.
        overrides: config keys to change: ``metrics``, ``topk``, ``data_path``...
        filter_seen: overrides the checkpoint's policy.
        phase: ``test`` or ``valid``.
    """
    config, model, _, train, valid, test = load_data_and_model(model_file, overrides)
    judge = judge_of(config) if config["judged_by"] == "labels" else Judge(config, filter_seen)
    judge.collector.data_collect(train)
    return judge.judge(model, test if phase == "test" else valid)


run_sigma, SigmaConfig = run, RunConfig  # the names of version 0.1, for programs that import them

__all__ = [
    "RunConfig",
    "SigmaConfig",
    "evaluate_checkpoint",
    "load_data",
    "load_data_and_model",
    "run",
    "run_sigma",
]
