"""What a benchmark will do: its cells, the trainings behind them, and the fingerprints of both.

A cell is a row, a seed and a seen-item policy. A training is what the weights depend on. Cells that differ in
decoding or judging alone share a training: they are evaluated on its weights, at the epoch that its own
settings picked on validation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from recbole_sigma import __version__
from recbole_sigma.benchmark.variants import Row, with_words
from recbole_sigma.machine.files import fingerprint
from recbole_sigma.models import registry
from recbole_sigma.models.contract import contract_class
from recbole_sigma.run.folder import NOT_PART_OF_A_RUN
from recbole_sigma.settings.keys import MemoryKeys, ProtocolKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.recbole_keys import RecBoleKeys
from recbole_sigma.values import UserError

MACHINE = NOT_PART_OF_A_RUN | frozenset(
    "data_path worker config_file local_rank nproc world_size group_offset offset encoding".split()
)
"""Keys that say where and how loudly a run happens, not what it computes; no part of a fingerprint."""

JUDGING = frozenset("metrics topk eval_batch_size metric_decimal_place".split())
"""Keys that a training does not depend on (``valid_metric`` is no such key: it picks the epoch)."""

MEMORY = frozenset(field.name for field in fields(MemoryKeys))
"""Keys of the collaborative memory, which is fused with any trained model. A training without it
depends on none of them; one with a fixed weight picks its epoch by fused lists."""

HISTORY = 50
"""MAX_ITEM_LIST_LENGTH of a table where the user names none, but for models that read histories whole."""
_DATA_FILES = ("inter", "item", "user", "kg", "link", "net")


@dataclass(frozen=True)
class Cell:
    """One result.

    Attributes:
        row: the table's row.
        seed: the seed.
        filter_seen: the seen-item policy that it is judged under.
        config: resolved settings without machine keys.
        key: fingerprint of the row's name, settings, data files and package version.
    """

    row: Row
    seed: int
    filter_seen: bool
    config: dict[str, Any]
    key: str

    @property
    def label(self) -> str:
        """Row, seed and policy in words."""
        return f"{self.row.name}, seed {self.seed}{'' if self.filter_seen else ', seen items kept'}"


@dataclass(frozen=True)
class Training:
    """Weights that one or more cells are judged with.

    Attributes:
        model: model name.
        seed: the seed.
        values: the dictionary that `quick_start.run` gets.
        config: resolved settings without machine keys.
        key: fingerprint.
        cells: the cells, in order.
    """

    model: str
    seed: int
    values: dict[str, Any]
    config: dict[str, Any]
    key: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Plan:
    """Everything a run will do, checked.

    Attributes:
        dataset: its name.
        trainings: in the order of the rows.
        files: property files of the user.
        words: command-line words of the user.
        notes: sentences that a reader of the table should know.
    """

    dataset: str
    trainings: tuple[Training, ...]
    files: tuple[str, ...]
    words: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def cells(self) -> list[Cell]:
        """All cells, by training."""
        return [cell for training in self.trainings for cell in training.cells]


def make_plan(
    rows: Sequence[Row],
    dataset: str,
    seeds: Sequence[int],
    policies: Sequence[bool] | None = None,
    files: Iterable[str] = (),
    values: dict[str, Any] | None = None,
    words: Iterable[str] = (),
) -> Plan:
    """Resolve and check every cell before anything trains.

    Args:
        rows: the table's rows.
        dataset: dataset name.
        seeds: seeds; a training-free model takes the first alone.
        policies: values of ``filter_seen``; None is the one that the settings give.
        files: the user's property files, for every row.
        values: values that outrank the files; a row's own outrank these.
        words: ``--key=value`` words that outrank all of these; see `variants.with_words`.

    Raises:
        UserError: with the problems of the first row that has any.
    """
    from recbole_sigma.data import checks as preflight
    from recbole_sigma.run.config import RunConfig
    from recbole_sigma.settings.reading import parse_arguments
    from recbole_sigma.settings.recipes import settings_of

    files, words, given = tuple(map(str, files)), tuple(words), dict(values or {})
    asked = parse_arguments(words, [])
    in_files = {key for file in files for key in settings_of(file, [])[0]}
    limited = "MAX_ITEM_LIST_LENGTH" in {*asked, *in_files, *given}
    made: dict[str, tuple[Training, list[Cell]]] = {}
    data: str | None = None
    protocols: dict[str, dict[str, str]] = {}
    for row in with_words(rows, asked):
        whole = contract_class(registry.find_model(row.base) or object).whole_history
        given = dict(values or {})
        if not limited and not whole:
            given["MAX_ITEM_LIST_LENGTH"] = HISTORY
        base = RunConfig(row.base, dataset, files, {**given, **row.values}, words)
        answers = contract_class(base.model_class)
        preflight.check_files(base, answers.needs_item_text)
        data = data or data_fingerprint(base)
        wanted = tuple(policies) if policies else (bool(base["filter_seen"]),)
        if base.by_labels:  # labelled rows are scored, whatever their user met before
            wanted = wanted[:1]
        path = registry.file_of(row.base)  # a model of the user's own: its code is part of what was trained
        code = {"code": hashlib.sha256(path.read_bytes()).hexdigest()} if path else {}
        weights = without(row.values, MEMORY | answers.decoding_keys)
        for policy in wanted:
            cell_config = RunConfig(
                row.base, dataset, files, {**given, **row.values, "filter_seen": policy}, words
            )
            if read(ProtocolKeys, cell_config).filter_seen != policy:
                raise UserError("--filter_seen and --filter name the same thing: leave one of the two out")
            protocol = cell_config.protocol()
            protocols.setdefault(protocol["judged_by"], {}).setdefault(
                str([protocol["eval_args"], protocol["candidates"], protocol["ties"]]), row.name
            )
            selected = policy if answers.follows_filter(cell_config) else max(wanted)
            train_values = {**given, **weights, "filter_seen": selected}
            train_config = RunConfig(row.base, dataset, files, train_values, words)
            for seed in seeds[:1] if answers.training_free else seeds:
                resolved, trained = plain(cell_config, seed), plain(train_config, seed)
                settings = without(trained, JUDGING | unread(trained))
                key = fingerprint(training=settings, data=data, version=__version__, **code)
                cell = Cell(
                    row,
                    seed,
                    policy,
                    resolved,
                    fingerprint(row=row.name, cell=resolved, training=key, data=data, version=__version__),
                )
                training = Training(row.base, seed, {**train_values, "seed": seed}, trained, key, ())
                made.setdefault(key, (training, []))[1].append(cell)
    for different in (kind for kind in protocols.values() if len(kind) > 1):
        names = " and ".join(different.values())
        raise UserError(
            f"{names} would be judged on different splits: set eval_args in a config file for all rows"
        )
    trainings = [
        Training(t.model, t.seed, t.values, t.config, t.key, tuple(cells)) for t, cells in made.values()
    ]
    lengths: set[int] = set()
    unlimited: list[str] = []
    for cell in (cell for training in trainings for cell in training.cells):
        if cell.config["judged_by"] == "labels":
            continue
        if contract_class(registry.find_model(cell.row.base) or object).whole_history:
            unlimited.append(cell.row.name)
        else:
            lengths.add(read(RecBoleKeys, cell.config).MAX_ITEM_LIST_LENGTH)
    notes = []
    if len(lengths) > 1:
        shown = ", ".join(map(str, sorted(lengths)))
        notes.append(f"rows differ in MAX_ITEM_LIST_LENGTH ({shown}): a variant sets it")
    if unlimited:
        notes.append(
            f"read whole histories, whatever the other rows read: {', '.join(dict.fromkeys(unlimited))}"
        )
    return Plan(dataset, tuple(trainings), files, words, tuple(notes))


def plain(config: Any, seed: int) -> dict[str, Any]:
    """Resolved settings of a run with a seed, as JSON values, without machine keys."""
    values = {**config.requested, "model": config["model"], "dataset": config["dataset"], "seed": seed}
    return without(values, MACHINE)


def without(values: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """The mapping without some keys."""
    left_out = frozenset(keys)
    return {key: value for key, value in values.items() if key not in left_out}


def unread(config: dict[str, Any]) -> frozenset[str]:
    """Keys that a run with these settings never reads: those of a memory that is off."""
    return MEMORY if config.get("memory") == "none" else frozenset()


def data_fingerprint(config: Any) -> str:
    """SHA-256 over the dataset's atomic files and over files that settings name as ``file:<path>``."""
    folder, name = Path(config["data_path"]), config["dataset"]
    found = sorted(
        path for path in folder.glob(f"{name}.*") if path.suffix[1:] in _DATA_FILES and path.is_file()
    )
    for value in config.requested.values():
        if isinstance(value, str) and value.startswith("file:") and Path(value[5:]).is_file():
            found.append(Path(value[5:]))
    digest = hashlib.sha256()
    for path in found:
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
