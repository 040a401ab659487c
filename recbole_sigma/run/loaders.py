"""From checked files to RecBole's three loaders, with exact time for every model."""

from __future__ import annotations

from logging import getLogger
from typing import Any

import recbole.data.utils as stock_data
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.dataset import Dataset
from recbole.sampler import KGSampler, RepeatableSampler
from recbole.utils import ModelType, init_seed

from recbole_sigma.data import checks as preflight
from recbole_sigma.data import labels
from recbole_sigma.data.events import exact
from recbole_sigma.data.gpsd import GpsdDataset
from recbole_sigma.machine import processes as distributed
from recbole_sigma.models import registry, stock
from recbole_sigma.models.contract import contract_class
from recbole_sigma.run.label_protocol import GPSD
from recbole_sigma.run.logs import FILE_ONLY
from recbole_sigma.run.refusals import recbole_refuses
from recbole_sigma.settings.keys import TrainKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.reading import raise_all
from recbole_sigma.values import UserError

_STOCK_DATASETS = {ModelType.SEQUENTIAL: "SequentialDataset", ModelType.KNOWLEDGE: "KnowledgeBasedDataset"}


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
    preflight.check_files(config, contract_class(model_class).needs_item_text)
    init_seed(config["seed"], config["reproducibility"])
    words = (
        f"use dataset {config['dataset']!r} for {config['model']}",
        "mend the data or the keys that name its columns",
    )
    with recbole_refuses(*words):
        made = config["label_rows"] == GPSD
        dataset = exact(GpsdDataset)(config) if made else make_dataset_class(model_class)(config)
    getLogger().info(dataset, extra=FILE_ONLY)
    preflight.check_dataset(config, dataset)
    features = dataset.item_feat
    columns = (dataset.iid_field,) if features is None else tuple(features.columns)
    raise_all(stock.column_problems(config["model"], config, columns))
    with recbole_refuses(*words):
        parts = dataset.build()
        if config["judged_by"] == "labels":
            labels.check_parts(config, parts)
            labels.learn_from_train(config, parts)
        train_sampler, valid_sampler, test_sampler = stock_data.create_samplers(config, dataset, parts)
        _refuse_endless_draws(config, train_sampler)
        train_class = stock_data.get_dataloader(config, "train")
        if config["MODEL_TYPE"] == ModelType.KNOWLEDGE:
            arguments = config["train_neg_sample_args"]
            sampler = KGSampler(dataset, arguments["distribution"], arguments["alpha"])
            _refuse_endless_draws(config, sampler)
            train = train_class(config, parts[0], train_sampler, sampler, shuffle=True)
        else:
            train = train_class(config, parts[0], train_sampler, shuffle=config["shuffle"])
    held_out = []
    for phase, part, sampler in (("valid", parts[1], valid_sampler), ("test", parts[2], test_sampler)):
        if not len(part.inter_feat):
            raise UserError(_why_empty(config, phase))
        held_out.append(_eval_loader(config, phase, part, sampler))
    return Loaders(dataset, train, *held_out)


def _refuse_endless_draws(config: Any, sampler: Any) -> None:
    """Refuse negatives that RecBole would look for without end.

    It refuses a user who has met the whole catalogue itself, but a draw by popularity knows only what stands
    in events, so there may be nothing left for a user in a larger catalogue.

    Args:
        config: resolved config.
        sampler: RecBole's, of the training part; None where nothing is drawn.

    Raises:
        UserError: naming the key.
    """
    if sampler is None or sampler.distribution != "popularity":
        return
    met = 1 if isinstance(sampler, RepeatableSampler) else max(map(len, sampler.used_ids), default=0)
    if met >= len(sampler.prob):
        raise UserError(
            f"train_neg_sample_args: distribution popularity draws from the {len(sampler.prob)} ids in the "
            f"events or triples of dataset {config['dataset']!r}, and someone has met them all: write "
            "{distribution: uniform}"
        )


def _why_empty(config: Any, phase: str) -> str:
    """The sentence about a part of the split that holds no row."""
    use = {"valid": "training needs one to choose its best epoch", "test": "the result is judged on it"}[
        phase
    ]
    ((kind, how),) = config["eval_args"]["split"].items()
    if config["benchmark_filename"] is not None:
        cause = "its file holds no event that a history precedes"
    elif how == ("valid_only" if phase == "test" else "test_only"):
        cause = f"split {{{kind}: {how}}} makes none; write {{LS: valid_and_test}}"
    elif isinstance(how, list) and not how[1 if phase == "valid" else 2]:
        cause = f"split {{{kind}: {how}}} gives it the ratio 0; write {{{kind}: [8, 1, 1]}}"
    else:
        cause = f"no user has enough events for the split {{{kind}: {how}}}; loosen the filters"
    return f"dataset {config['dataset']} has no {phase} part, and {use}: {cause}"


_MAX_SCORES = 1 << 26  # scores of one evaluation batch: 256 MB


def _eval_loader(config: Any, phase: str, part: Any, sampler: Any) -> Any:
    """RecBole's loader with ``eval_batch_size`` users per batch for every model, fewer on a large catalogue.

    RecBole counts sequences for sequential models but user-item scores for the others.
    """
    world = distributed.current()
    if world.several:  # the rows are shared out by RecBole's sampler, and put together by the judge
        config["single_spec"], config["world_size"] = False, world.size
    asked = config["eval_batch_size"]
    if config["judged_by"] == "labels":
        try:
            return stock_data.get_dataloader(config, phase)(config, part, sampler, shuffle=False)
        finally:
            config["single_spec"] = True
    rows = max(1, min(int(asked), _MAX_SCORES // part.item_num))
    config["eval_batch_size"] = rows if config["MODEL_TYPE"] == ModelType.SEQUENTIAL else rows * part.item_num
    try:
        return stock_data.get_dataloader(config, phase)(config, part, sampler, shuffle=False)
    finally:
        config["eval_batch_size"], config["single_spec"] = asked, True


def sampled(config: Any, loader: Any) -> Any:
    """The validation rows that epochs are judged on (`valid_users`): the same ones every time.

    Raises:
        UserError: rows of a model of lists that hold no histories.
    """
    count = read(TrainKeys, config).valid_users
    if not count or not loader or config["judged_by"] == "labels":
        return loader
    if not isinstance(loader, FullSortEvalDataLoader) or not loader.is_sequential:
        raise UserError(f"valid_users draws histories, and {config['model']} reads none: leave it out")
    part = loader._dataset
    if count >= len(part.inter_feat):
        return loader
    generator = torch.Generator().manual_seed(config["seed"])
    chosen = torch.randperm(len(part.inter_feat), generator=generator)[:count].sort().values
    return FullSortEvalDataLoader(config, part.copy(part.inter_feat[chosen]), loader._sampler, shuffle=False)


def make_dataset_class(model_class: type) -> type:
    """Our dataset for our models, else RecBole's by its own lookup, always with exact time."""
    found = registry.dataset_class(model_class)
    if found is None:
        module = stock_data.importlib.import_module("recbole.data.dataset")
        found = vars(module).get(f"{model_class.__name__}Dataset")
        if not (isinstance(found, type) and issubclass(found, Dataset)):
            found = vars(module)[_STOCK_DATASETS.get(model_class.type, "Dataset")]
    return exact(found)
