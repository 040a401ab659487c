"""Run any model, RecBole's or ours, under one protocol; the counterpart of ``recbole.quick_start``."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from logging import getLogger
from pathlib import Path
from typing import Any

import recbole.data.utils as stock_data
from recbole.data.dataset import Dataset
from recbole.sampler import KGSampler
from recbole.utils import ModelType, get_trainer, init_seed

from recbole_sigma import checkpoint as files
from recbole_sigma import distributed, plugin, preflight
from recbole_sigma._compat import repaired_model
from recbole_sigma.artifacts import fingerprint
from recbole_sigma.chronology import exact
from recbole_sigma.config import SigmaConfig, rebuild_config, requested_values
from recbole_sigma.evaluation.judge import Judge, Judgement
from recbole_sigma.evaluation.task_report import add_task_rows
from recbole_sigma.launch import launch, wanted_processes
from recbole_sigma.logs import FILE_ONLY, say_protocol, start_log, unreachable_sentence
from recbole_sigma.runs import RunFolder, run_id
from recbole_sigma.training import make_trainer
from recbole_sigma.values import UserError

_STOCK_DATASETS = {ModelType.SEQUENTIAL: "SequentialDataset", ModelType.KNOWLEDGE: "KnowledgeBasedDataset"}


def run_sigma(
    model: str | type | None = None,
    dataset: str | None = None,
    config_file_list: Iterable[str] | None = None,
    config_dict: dict[str, Any] | None = None,
    saved: bool = True,
    arguments: Iterable[str] = (),
) -> Any:
    """Train and test one model, in as many processes as ``nproc`` says.

    Args:
        model: name or class, RecBole's or ours.
        dataset: name of a folder in ``data_path``, or ``ml-100k``.
        config_file_list: property files; later ones win.
        config_dict: values that outrank the files.
        saved: write a checkpoint of the best epoch.
        arguments: ``--key=value`` words that outrank the dictionary.

    Returns:
        RecBole's result (``best_valid_score``, ``valid_score_bigger``, ``best_valid_result``,
        ``test_result``) plus ``valid`` and ``test`` `Judgement`s, ``history``, ``best_epoch``, ``seconds``,
        ``protocol``, ``config``, ``parameters``, ``checkpoint`` and ``loaders`` (not from several processes).
        None on a machine without process 0.

    Raises:
        UserError: for anything in the settings or the data that makes the run impossible, before training.
    """
    started, cpu = time.perf_counter(), time.process_time()
    files_, words = list(map(str, config_file_list or ())), list(arguments)
    config = SigmaConfig(model, dataset, files_, config_dict, words)
    if wanted_processes(config)[1] > 1 and not distributed.current().several:
        call = {"model": model, "dataset": dataset, "config_file_list": files_, "config_dict": config_dict}
        preflight.check_files(config, config.model_class)
        return launch(config, {**call, "saved": saved, "arguments": words})
    distributed.join(config["device"])
    model_class = repaired_model(config.model_class)
    start_log(config)
    logger = getLogger()
    logger.info(config, extra=FILE_ONLY)
    data = load_data(config, model_class)
    prepared, cpu_data = time.perf_counter(), time.process_time()
    run = open_run(config, saved)
    network = build_model(config, model_class, data.train)
    trainer = build_trainer(config, network)
    if run is not None:
        continue_run(trainer, run, data)
    logger.info(network, extra=FILE_ONLY)
    say_protocol(config, logger)
    built, cpu_model = time.perf_counter(), time.process_time()
    trainer.judge.collector.data_collect(data.train)
    best_score, best_result = trainer.fit(
        data.train, data.valid, saved=saved, show_progress=bool(config["show_progress"])
    )
    trained, cpu_train = time.perf_counter(), time.process_time()
    if saved:
        trainer.load(trainer.saved_model_file)
    test = trainer.judge.judge(trainer.model, data.test, progress=bool(config["show_progress"]), label="Test")
    test = add_task_rows(test, trainer.model, data.test, config)
    if best_result is None and len(data.valid._dataset):  # no validation during training (eval_step: 0)
        best_result = trainer.judge.judge(trainer.model, data.valid).metrics
        best_score = best_result[str(config["valid_metric"]).lower()]
    trainer.finish()
    if run is not None:
        run.close()
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
        "memory_weight": trainer.judge.recall.weight,
        "history": trainer.history,
        "best_epoch": trainer.best_epoch,
        "seconds": {
            "total": time.perf_counter() - started,
            "data": prepared - started,
            "model": built - prepared,
            "train": trained - built,
            "test": test.seconds,
            "cpu": time.process_time() - cpu,
            "cpu_data": cpu_data - cpu,
            "cpu_model": cpu_model - cpu_data,
            "cpu_train": cpu_train - cpu_model,
            "cpu_test": time.process_time() - cpu_train,
        },
        "parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "protocol": config.protocol(),
        "config": config.requested,
        "versions": files.library_versions(),
        "checkpoint": trainer.saved_model_file if saved else None,
        "loaders": data,
    }


class Loaders:
    """The three loaders of a run and the dataset before its split.

    Attributes:
        dataset: all events.
        train, valid, test: RecBole loaders.
    """

    def __init__(self, dataset: Any, train: Any, valid: Any, test: Any) -> None:
        self.dataset, self.train, self.valid, self.test = dataset, train, valid, test


def load_data(config: Any, model_class: type) -> Loaders:
    """Check the files, load the dataset with exact time, split it, and make RecBole's loaders.

    RecBole's own functions are not used because they unpickle whatever dataset or loader file lies in
    ``checkpoint_dir``.
    """
    preflight.check_files(config, model_class)
    init_seed(config["seed"], config["reproducibility"])
    with _recbole_words(config):
        dataset = make_dataset_class(model_class)(config)
    getLogger().info(dataset, extra=FILE_ONLY)
    preflight.check_dataset(config, dataset)
    with _recbole_words(config):
        parts = dataset.build()
        train_sampler, valid_sampler, test_sampler = stock_data.create_samplers(config, dataset, parts)
    train_class = stock_data.get_dataloader(config, "train")
    if config["MODEL_TYPE"] == ModelType.KNOWLEDGE:
        arguments = config["train_neg_sample_args"]
        sampler = KGSampler(dataset, arguments["distribution"], arguments["alpha"])
        train = train_class(config, parts[0], train_sampler, sampler, shuffle=True)
    else:
        train = train_class(config, parts[0], train_sampler, shuffle=config["shuffle"])
    held_out = []
    for phase, part, sampler in (("valid", parts[1], valid_sampler), ("test", parts[2], test_sampler)):
        if not len(part.inter_feat):
            raise UserError(
                f"the {phase} part of {config['dataset']} is empty under {config['eval_args']['split']}: "
                "no user has enough events"
            )
        held_out.append(_eval_loader(config, phase, part, sampler))
    return Loaders(dataset, train, *held_out)


@contextlib.contextmanager
def _recbole_words(config: Any) -> Iterator[None]:
    """What RecBole says about unusable data is the user's to mend, not a bug."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"RecBole cannot use dataset {config['dataset']!r}: {error}") from error


_MAX_SCORES = 1 << 26  # scores of one evaluation batch: 256 MB


def _eval_loader(config: Any, phase: str, part: Any, sampler: Any) -> Any:
    """RecBole's loader with ``eval_batch_size`` users per batch for every model, fewer on a large catalogue.

    RecBole counts sequences for sequential models but user-item scores for the others.
    """
    world = distributed.current()
    if world.several:  # the rows are shared out by RecBole's sampler, and put together by the judge
        config["single_spec"], config["world_size"] = False, world.size
    asked = config["eval_batch_size"]
    rows = max(1, min(int(asked), _MAX_SCORES // part.item_num))
    config["eval_batch_size"] = rows if config["MODEL_TYPE"] == ModelType.SEQUENTIAL else rows * part.item_num
    try:
        return stock_data.get_dataloader(config, phase)(config, part, sampler, shuffle=False)
    finally:
        config["eval_batch_size"], config["single_spec"] = asked, True


def make_dataset_class(model_class: type) -> type:
    """Our dataset for our models, else RecBole's by its own lookup, always with exact time."""
    found = plugin.dataset_class(model_class)
    if found is None:
        module = stock_data.importlib.import_module("recbole.data.dataset")
        found = vars(module).get(f"{model_class.__name__}Dataset")
        if not (isinstance(found, type) and issubclass(found, Dataset)):
            found = getattr(module, _STOCK_DATASETS.get(model_class.type, "Dataset"))
    return exact(found)


def build_model(config: Any, model_class: type, train: Any) -> Any:
    """Build a model on the train data, from the seed alone.

    Of several processes rank 0 builds first: it prepares the items, and the others read what it stored.
    Their weights are the same; their later draws (negatives, dropout) are their own.
    """
    world = distributed.current()
    if not world.main:
        distributed.wait()
    init_seed(config["seed"], config["reproducibility"])
    model = model_class(config, train._dataset).to(config["device"])
    if world.main:
        distributed.wait()
    else:
        init_seed(config["seed"] + world.rank, config["reproducibility"])
    return model


def build_trainer(config: Any, model: Any) -> Any:
    """The trainer that RecBole would choose, with our evaluator and checkpoints."""
    Path(config["checkpoint_dir"]).mkdir(parents=True, exist_ok=True)  # RecBole's own check is a race
    return make_trainer(get_trainer(config["MODEL_TYPE"], config["model"]))(config, model)


# --- continuing ---


def open_run(config: Any, saved: bool) -> RunFolder | None:
    """Take the folder of this run's state; with ``resume`` the state in it too.

    Raises:
        UserError: ``resume`` without checkpoints, a damaged state, or a run that is still going.
    """
    if not saved:
        if config["resume"]:
            raise UserError("resume: nothing is stored with saved=False, so nothing can be continued")
        return None
    name = run_id(requested_values(config), distributed.current().size)
    world = distributed.current()
    if not world.main:
        folder, stored = json.loads(distributed.broadcast(""))
        return RunFolder.follow(folder, stored)
    run = RunFolder(config["checkpoint_dir"], name, bool(config["resume"]))
    distributed.broadcast(json.dumps([str(run.folder), run.stored is not None]))
    logger = getLogger()
    if config["resume"] and run.stored is None:
        logger.info(f"resume: no state of this command is stored in {run.root}; it starts from the beginning")
    run.announce(logger)
    return run


def continue_run(trainer: Any, run: RunFolder, data: Loaders) -> None:
    """Go on where the stored state ends, if there is one, and keep the state of this run from now on.

    Raises:
        UserError: the state was written for other data or other item preparation, the model's training loop
            cannot be continued, or the best weights are gone.
    """
    trainer.run, trainer.origin = run, origin(trainer.model, data)
    saved = run.stored
    if saved is None:
        if trainer.config["resume"] and not trainer.exact:
            raise UserError(
                f"resume: {trainer.config['model']} has a training loop of its own in RecBole, which cannot "
                "be continued exactly: run the command without --resume"
            )
        return
    for what, digest in trainer.origin.items():
        if saved.meta["origin"].get(what) != digest:
            raise UserError(
                f"resume: the {what} changed since {saved.path} was written: restore it, or run the command "
                "without --resume to start anew"
            )
    best = Path(trainer.config["checkpoint_dir"]) / saved.meta["best_file"]
    if saved.meta["best_epoch"] is not None and not best.is_file():
        raise UserError(
            f"resume: {best}, which holds the best weights so far, is gone: run the command without --resume"
        )
    trainer.saved_model_file = str(best)
    if saved.meta.get("finished"):
        trainer.accept_finished(saved)
        getLogger().info(f"the run is finished; its weights are tested again: {best}")
    else:
        trainer.continue_from(saved)
        trainer.trained = bool(saved.meta["trained"])


def origin(model: Any, data: Loaders) -> dict[str, str]:
    """Digests of what a run learns from: the events and names of the dataset, and the prepared items."""
    dataset = data.train._dataset
    events = dataset.chronology
    names = {
        field: list(map(str, dataset.field2id_token[field]))
        for field in (dataset.uid_field, dataset.iid_field)
    }
    found = {
        "dataset": fingerprint(
            users=events.users, items=events.items, times=events.times, names=names, held=dataset.held_out
        )
    }
    if hasattr(model, "checkpoint_extra"):
        extra = model.checkpoint_extra()
        # text is JSON, whose keys come in another order from the cache
        found["item preparation"] = fingerprint(
            **{name: json.loads(value) if isinstance(value, str) else value for name, value in extra.items()}
        )
    return found


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
    config = rebuild_config(saved.meta["config"], overrides)
    model_class = repaired_model(config.model_class)
    extra = files.extra_of(saved)
    dataset_class = make_dataset_class(model_class)
    if extra and hasattr(dataset_class, "use_prepared"):
        data = _load_prepared(config, model_class, extra)
    else:
        data = load_data(config, model_class)
    model = build_model(config, model_class, data.train)
    files.load_weights(model, saved)
    model.eval()
    return config, model, data.dataset, data.train, data.valid, data.test


def _load_prepared(config: Any, model_class: type, extra: dict[str, Any]) -> Loaders:
    data = load_data(config, model_class)
    data.train._dataset.use_prepared(extra)
    return data


def evaluate_checkpoint(
    model_file: str,
    overrides: dict[str, Any] | None = None,
    filter_seen: bool | None = None,
    phase: str = "test",
) -> Judgement:
    """Judge a saved model again, with other metrics or policy if wanted.

    Args:
        model_file: the checkpoint.
        overrides: config keys to change: ``metrics``, ``topk``, ``data_path``...
        filter_seen: overrides the checkpoint's policy.
        phase: ``test`` or ``valid``.
    """
    config, model, _, train, valid, test = load_data_and_model(model_file, overrides)
    judge = Judge(config, filter_seen)
    judge.collector.data_collect(train)
    return judge.judge(model, test if phase == "test" else valid)


__all__ = ["evaluate_checkpoint", "load_data", "load_data_and_model", "run_sigma"]
