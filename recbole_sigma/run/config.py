"""RecBole's Config with safe parsing, our property files for every model, and all problems in one message."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config
from recbole.evaluator.register import metric_information, metric_types
from recbole.utils import EvaluatorType, ModelType

from recbole_sigma.machine import processes as distributed
from recbole_sigma.models import registry, stock
from recbole_sigma.models.contract import contract_class, without_beam
from recbole_sigma.policy.rewards import reward_column
from recbole_sigma.policy.stage import no_likelihoods, unread
from recbole_sigma.run import label_protocol, tracking
from recbole_sigma.run.refusals import recbole_refuses
from recbole_sigma.settings import reading, recipes
from recbole_sigma.settings.keys import ProtocolKeys
from recbole_sigma.settings.reader import all_keys, read
from recbole_sigma.settings.recbole_values import (
    COLUMN_KEYS,
    INTERVAL_KEYS,
    interval_text,
    kind_problems,
    load_too,
    value_problems,
)
from recbole_sigma.values import UserError

PROTOCOL_KEYS = (
    "eval_args",
    "metrics",
    "topk",
    "valid_metric",
    "filter_seen",
    "metric_decimal_place",
    "filter_inter_by_user_or_item",
)
# set by RecBole while it resolves a config; they follow from the others
DERIVED_KEYS = (
    "MODEL_TYPE",
    "MODEL_INPUT_TYPE",
    "eval_type",
    "device",
    "single_spec",
    "local_rank",
    "valid_neg_sample_args",
    "test_neg_sample_args",
)


_RETIRED = "sigma_slot"  # a key of the first form of SIGMA, whose weights have other names and shapes
_PLAIN_NAME = re.compile(r"(?!\.+$)[^/\\\0]+")


ROWS_ON_A_GPU = 8  # times the users of an evaluation batch on a CPU, where the batch size is not set


class RunConfig(Config):
    """A RecBole Config that never reads ``sys.argv``, never evaluates text, and checks every key.

    Args:
        model: model name or class.
        dataset: dataset name.
        config_file_list: property files, later ones win.
        config_dict: values that outrank the files.
        arguments: words such as ``--learning_rate=1e-3`` that outrank the dictionary.
        beside_data: read NAME.yaml beside the files of the data set NAME, if it is there; it is outranked by
            everything above.

    Raises:
        UserError: with every problem of the settings at once.
    """

    def __init__(
        self,
        model: str | type | None = None,
        dataset: str | None = None,
        config_file_list: Iterable[str] | None = None,
        config_dict: dict[str, Any] | None = None,
        arguments: Iterable[str] = (),
        beside_data: bool = True,
    ) -> None:
        self._beside_data = beside_data
        self._problems: list[str] = []
        self._bases: dict[str, str] = {}  # variant files, and the model that each is for
        self._given: list[tuple[str, dict[str, Any]]] = []
        self._arguments = list(arguments)
        with recbole_refuses("resolve these settings", "mend the key that it names"):
            super().__init__(model, dataset, list(config_file_list or ()), dict(config_dict or {}))
        del self._problems, self._bases, self._given, self._arguments, self._beside_data, self._defaults

    # --- reading ---

    def _init_parameters_category(self) -> None:
        super()._init_parameters_category()
        # RecBole appends to its own module's lists; give it copies
        self.parameters = {name: list(keys) for name, keys in self.parameters.items()}

    def _build_yaml_loader(self) -> type[reading.SafeLoader]:
        return reading.SafeLoader

    def _load_config_files(self, file_list: list[str]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for file in file_list:
            values, base = recipes.settings_of(file, self._problems)
            if base is not None:
                self._bases[str(file)] = base
            self._given.append((str(file), values))
            merged.update(values)
        return merged

    def _load_variable_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
        self._given.append(("config_dict", config_dict))
        return config_dict

    def _load_cmd_line(self) -> dict[str, Any]:
        values = reading.parse_arguments(self._arguments, self._problems)
        for key in ("config_files",):
            values.pop(key, None)
        self._given.append(("the command line", values))
        return values

    def _convert_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
        return config_dict

    # --- resolving ---

    def _get_model_and_dataset(self, model: Any, dataset: Any) -> tuple[str, type, str]:
        model = model if model is not None else self.external_config_dict.get("model")
        if model is None and self._bases:
            model = next(iter(self._bases.values()))
        name = model.__name__ if isinstance(model, type) else model
        self._problems += [
            recipes.foreign_variant(file, base, name) for file, base in self._bases.items() if base != name
        ]
        dataset = dataset if dataset is not None else self.external_config_dict.get("dataset")
        if model is None:
            self._problems.append("no model is named: give --model=SIGMA (or model: SIGMA in a config file)")
        elif isinstance(model, str):
            refused = stock.refusal(model)
            found = None if refused else registry.find_model(model)
            if refused:
                self._problems.append(refused)
            elif found is None:
                self._problems.append(
                    f"unknown model {model!r}{reading.nearest(model, registry.model_names())}"
                )
            model = found
        if dataset is None:
            self._problems.append(
                "no dataset is named: give --dataset=ml-100k (or dataset: ml-100k in a config file)"
            )
        elif not _PLAIN_NAME.fullmatch(str(dataset)):
            self._problems.append(
                f"dataset {str(dataset)!r} must be the plain name of a folder in data_path, without a path: "
                "name the folder above it with --data_path"
            )
            dataset = None
        if model is None or dataset is None:
            for source, values in self._given:
                self._problems.extend(recipes.unknown_keys(values, source))
            reading.raise_all(self._problems)
        return super()._get_model_and_dataset(model, str(dataset))

    def _load_internal_config_dict(self, model: str, model_class: type, dataset: str) -> None:
        recipes.merge_internal(self, Config._load_internal_config_dict.stock, model_class, dataset)
        # RecBole's quick-start file of a model type outranks dataset files and splits sequential and general
        # models differently; the protocol of this project is one for all models
        names = tuple(c.__name__ for c in reversed(model_class.__mro__))
        self._shipped = recipes.shipped_defaults(names, dataset)
        self.by_labels = (
            label_protocol.resolved(model_class, self.external_config_dict) == label_protocol.LABELS
        )
        protocol = {key: self._shipped[key] for key in PROTOCOL_KEYS if key in self._shipped}
        if self.by_labels:
            protocol |= label_protocol.defaults(model_class, dataset, self.external_config_dict)
        self.internal_config_dict.update(protocol)
        self._defaults = dict(self.internal_config_dict)
        if self._beside_data:
            self._load_beside_data(dataset)

    def _load_beside_data(self, dataset: str) -> None:
        """The data set's own property file, which the adapters write beside its files."""
        folder = self.external_config_dict.get("data_path") or self.internal_config_dict.get("data_path")
        path = Path(str(folder)) / dataset / f"{dataset}.yaml"
        if not path.is_file():
            if path.is_symlink() or path.exists():
                self._problems.append(f"{path} is no file that can be read: move it, or put the file there")
            return
        values = reading.load_yaml(path, self._problems)
        for key in ("model", "dataset", "data_path"):  # that is how it was found
            values.pop(key, None)
        if self.by_labels:
            values = label_protocol.beside_data(values)
        self._problems += recipes.unknown_keys(values, str(path), self.internal_config_dict)
        self._given.append((str(path), dict(values)))
        if isinstance(values.get("eval_args"), dict):  # a part of it keeps the rest
            values["eval_args"] = {**self.internal_config_dict["eval_args"], **values["eval_args"]}
        self.internal_config_dict.update(values)

    def _init_device(self) -> None:
        """The device of this process; connecting to the others is `distributed.join`'s.

        RecBole's own method needs nccl and a GPU per process. To its loaders and trainers this stays one
        process (``single_spec``): `batches` and `training` share the work out.
        """
        final = self.final_config_dict
        chosen = final["gpu_id"]
        chosen = ",".join(map(str, chosen)) if isinstance(chosen, (tuple, list)) else str(chosen)
        final["gpu_id"] = os.environ["CUDA_VISIBLE_DEVICES"] = chosen
        world = distributed.current()
        final["single_spec"], final["local_rank"] = True, world.local_rank
        final["device"] = torch.device("cpu")
        if chosen and final.get("use_gpu", True) and torch.cuda.is_available():
            if world.local_rank >= torch.cuda.device_count():
                raise UserError(
                    f"process {world.local_rank} of this machine has no GPU: gpu_id {chosen!r} names "
                    f"{torch.cuda.device_count()}; name as many as nproc, or use the CPU with --gpu_id=''"
                )
            final["device"] = torch.device(f"cuda:{world.local_rank}" if world.several else "cuda")
            if "eval_batch_size" not in self.external_config_dict:
                final["eval_batch_size"] *= ROWS_ON_A_GPU
        if not world.main:
            final["show_progress"] = False

    def _get_final_config_dict(self) -> dict[str, Any]:
        final = super()._get_final_config_dict()
        base = self.internal_config_dict["eval_args"]
        asked = self.external_config_dict.get("eval_args")
        if isinstance(asked, dict):
            final["eval_args"] = {**base, **asked}
        for key in ("topk", "metrics", "selected_features"):
            if isinstance(final.get(key), (int, str)):
                final[key] = [final[key]]
        if final.get("log_wandb") is True:  # RecBole's name for one of the places of log_to
            final["log_to"], final["log_wandb"] = "wandb", False
        if isinstance(final["learner"], str):
            final["learner"] = final["learner"].lower()
        if final.get("loss_type") == "CE" and "train_neg_sample_args" not in self.external_config_dict:
            if self.model_class.type == ModelType.SEQUENTIAL:
                final["train_neg_sample_args"] = None  # RecBole refuses negatives beside a full softmax
        for key in COLUMN_KEYS:  # RecBole takes a kind of file without columns for a fault
            if isinstance(final.get(key), dict):
                final[key] = {kind: columns for kind, columns in final[key].items() if columns is not None}
        timed = not self.by_labels or "TO" in str(final["eval_args"])
        load_too(final, final["TIME_FIELD"] if timed else None, reward_column(final))
        for key in INTERVAL_KEYS:  # while a tuple is still none of JSON's lists
            final[key] = interval_text(final.get(key))
        if isinstance(final.get("val_interval"), dict):
            final["val_interval"] = {
                field: str(value) if isinstance(value, tuple) else value
                for field, value in final["val_interval"].items()
            }
        final["judged_by"] = label_protocol.LABELS if self.by_labels else label_protocol.LISTS
        self._problems += label_protocol.own_rows(final)
        self._check(final)
        reading.raise_all(self._problems)
        self.requested = {key: value for key, value in final.items() if key not in DERIVED_KEYS}
        self.requested = json.loads(json.dumps(self.requested, default=str))
        return final

    # --- checking ---

    def _check(self, final: dict[str, Any]) -> None:
        say = self._problems.append
        self._problems.extend(value_problems(final))
        for source, values in self._given:
            if "loss_type" in values and "loss_type" not in self.internal_config_dict:
                # no refusal: a table gives its words to every row
                getLogger().warning(f"loss_type has no effect on {self.model_class.__name__} (in {source})")
        for sentence in unread(self._given):
            getLogger().warning(sentence)  # no refusal, for the same reason
        likelihoods = contract_class(self.model_class).token_likelihoods
        if final.get("policy") not in (None, "none") and not likelihoods:
            say(no_likelihoods(self.model_class.__name__))
        ours = all_keys()
        for source, values in self._given:
            theirs = {key: value for key, value in values.items() if key not in ours}
            wrong = kind_problems(theirs, self._defaults)
            self._problems += [f"{problem} (in {source})" for problem in wrong]
        self._problems.extend(stock.problems(self.model_class.__name__, final))
        self._problems += recipes.key_problems(self._given, self._shipped, self.internal_config_dict)
        if self.by_labels:
            self._problems += label_protocol.problems(self.model_class, final)
            self._check_split(final["eval_args"])
            return
        metrics = [str(name) for name in final["metrics"]]
        for name in metrics:
            lowered = name.lower()
            if lowered not in metric_types:
                say(f"unknown metric {name!r}{reading.nearest(lowered, metric_types)}")
            elif (
                metric_types[lowered] != EvaluatorType.RANKING
                or "rec.meanrank" in metric_information[lowered]
            ):
                say(
                    f"metric {name} needs the scores of all items, which ranked lists do not carry: "
                    f"use top-k metrics such as Hit, NDCG, MRR, Recall"
                )
            if lowered == "prefix_survival" and (problem := without_beam(self.model_class)):
                say(problem)
        topk = final["topk"]
        whole = (
            [k for k in topk if isinstance(k, int) and not isinstance(k, bool) and k > 0]
            if isinstance(topk, list)
            else []
        )
        if not whole or len(whole) != len(topk):
            say(f"topk must be a list of positive integers, not {topk!r}")
        name, _, k = str(final["valid_metric"]).partition("@")
        if name.lower() not in {m.lower() for m in metrics} or (k and k not in {str(j) for j in whole}):
            say(
                f"valid_metric {final['valid_metric']!r} is not computed: metrics are {', '.join(metrics)} "
                f"at topk {', '.join(map(str, whole))}"
            )
        if final.get("limit") and final.get("benchmark_filename") is not None:
            say("limit cannot shorten a published split (benchmark_filename): leave it out")
        if problem := tracking.missing(final.get("log_to")):
            say(problem)
        args = final["eval_args"]
        self._check_split(args)
        if not isinstance(args, dict):
            return
        modes = args["mode"].values() if isinstance(args["mode"], dict) else [args["mode"]]
        for mode in modes:
            if mode != "full":
                say(
                    f"eval_args: mode {mode!r} samples candidates; this evaluator ranks the full "
                    "catalogue: set mode: full"
                )
        beam = final.get("decode_beam")
        if (
            isinstance(beam, int)
            and 0 < beam < max(whole, default=0)
            and contract_class(self.model_class).beam_bounds_list
        ):
            say(
                f"decode_beam {beam} is smaller than the longest list, topk {max(whole)}: raise "
                "decode_beam or lower topk"
            )

    def _check_split(self, args: Any) -> None:
        say = self._problems.append
        if not isinstance(args, dict):
            say(f"eval_args must be a mapping, not {args!r}")
            return
        if args.get("group_by") not in ("user", "none", None):
            say(f"eval_args: group_by must be user or none, not {args['group_by']!r}")
        if isinstance(args["mode"], dict) and not args["mode"].keys() <= {"valid", "test"}:
            say(f"eval_args: mode names the parts valid and test, not {', '.join(map(str, args['mode']))}")
        split = args.get("split")
        ratios = next(iter(split.values())) if isinstance(split, dict) and len(split) == 1 else None
        if (
            isinstance(split, dict)
            and "RS" in split
            and not (
                isinstance(ratios, list)
                and len(ratios) == 3
                and all(isinstance(r, (int, float)) and r >= 0 for r in ratios)
                and sum(ratios) > 0
            )
        ):
            say(f"eval_args: split RS needs ratios [train, valid, test] such as [8,1,1], not {ratios!r}")
        elif not isinstance(split, dict) or len(split) != 1 or next(iter(split)) not in ("LS", "RS", "TS"):
            say(
                f"eval_args: split must be one of {{LS: valid_and_test}}, {{RS: [8,1,1]}}, "
                f"{{TS: [8,1,1]}}; not {split!r}"
            )
        if args.get("order") not in ("TO", "RO"):
            say(f"eval_args: order must be TO (by time) or RO (random), not {args.get('order')!r}")

    def keep_settled(self, keys: Iterable[str]) -> None:
        """Keep what the dataset filled in for keys that were left to it, so that checkpoints and records
        name it.
        """
        for key in keys:
            self.requested[key] = json.loads(json.dumps(self[key], default=str))

    def protocol(self) -> dict[str, Any]:
        """The evaluation protocol as plain values: what a result must carry to be comparable."""
        keys = read(ProtocolKeys, self)
        by_labels = self["judged_by"] == label_protocol.LABELS
        split = label_protocol.split_of(self) if by_labels else self["eval_args"]
        return {
            "judged_by": self["judged_by"],
            "eval_args": split,
            "filter_seen": keys.filter_seen,
            **({"limit": keys.limit} if keys.limit else {}),
            "metrics": list(self["metrics"]),
            "topk": list(self["topk"]),
            "history": self["MAX_ITEM_LIST_LENGTH"],
            "ties": "mid-rank"
            if by_labels
            else "score descending, item id ascending; equal times in file order",
            "candidates": "labelled rows" if by_labels else "full catalogue",
        }


def requested_values(config: Any) -> dict[str, Any]:
    """What a config was asked for, as plain JSON values: enough to build it again."""
    if isinstance(config, RunConfig):
        values = dict(config.requested)
    else:
        merged = {**config.internal_config_dict, **config.external_config_dict}
        values = json.loads(
            json.dumps({k: v for k, v in merged.items() if k not in DERIVED_KEYS}, default=str)
        )
    values["model"], values["dataset"] = config["model"], config["dataset"]
    return values


def rebuild_config(values: dict[str, Any], overrides: dict[str, Any] | None = None) -> RunConfig:
    """The config of a checkpoint.

    Args:
        values: what `requested_values` gave.
        overrides: keys to change, such as ``data_path`` on another machine.

    Raises:
        UserError: a checkpoint of a SIGMA that this version does not have any more.
    """
    merged = {**stock.without_files(str(values["model"]), values), **(overrides or {})}
    model, dataset = merged.pop("model"), merged.pop("dataset")
    if model not in registry.model_names() and not registry.adopted(model):
        raise UserError(
            f"the checkpoint names the model {str(model)[:80]!r}, which is none of this program's or "
            "RecBole's: import the class and pass it to recbole_sigma first, or use the checkpoint of "
            "a known model"
        )
    if _RETIRED in values:
        raise UserError(
            f"the checkpoint was written before {model} got its present form (its settings hold {_RETIRED}): "
            f"train it anew with python run_recbole_sigma.py --model={model} --dataset={dataset}"
        )
    known = recipes.declared_keys()
    # a checkpoint is whole: what lies beside the data today has no say
    kept = {key: value for key, value in merged.items() if key in known}
    return RunConfig(model, dataset, config_dict=kept, beside_data=False)


__all__ = ["RunConfig", "UserError", "rebuild_config", "requested_values"]
