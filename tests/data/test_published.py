"""`benchmark_filename`: three files in place of one log, for every kind of model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_sigma.quick_start import run
from recbole_sigma.run.config import RunConfig as Config
from recbole_sigma.run.loaders import load_data
from recbole_sigma.values import UserError

USERS, ITEMS, LENGTH = 12, 14, 8
LOG = {f"u{n}": [f"i{(n + k) % ITEMS}" for k in range(LENGTH)] for n in range(USERS)}


def files(folder: Path, form: str, **changes: Any) -> dict[str, Any]:
    """The leave-one-out split of `LOG` as three files, with one event per row or a history per row."""
    (folder / "small").mkdir(parents=True)
    column = {"events": "", "rows": "\titem_id_list:token_seq"}[form]
    for name, places in {"train": range(LENGTH - 2), "valid": [LENGTH - 2], "test": [LENGTH - 1]}.items():
        lines = [f"user_id:token\titem_id:token\ttimestamp:float{column}"]
        for user, items in LOG.items():
            for place in places:
                history = "" if form == "events" else "\t" + " ".join(items[max(0, place - 5) : place])
                if place or form == "events":
                    lines.append(f"{user}\t{items[place]}\t{place + 1}{history}")
        (folder / "small" / f"small.{name}.inter").write_text("\n".join(lines) + "\n")
    inter = ["user_id", "item_id", "timestamp", *(["item_id_list"] if form == "rows" else [])]
    return {
        "data_path": str(folder), "load_col": {"inter": inter},
        "benchmark_filename": ["train", "valid", "test"],
        "alias_of_item_id": ["item_id_list"] if form == "rows" else None, "show_progress": False,
        "state": "ERROR", "topk": [1, 2], "valid_metric": "NDCG@2", "epochs": 1, "MAX_ITEM_LIST_LENGTH": 5,
    } | changes  # fmt: skip


def load(model: str, values: dict[str, Any]) -> Any:
    config = Config(model, "small", config_dict=values)
    return load_data(config, config.model_class)


def histories(data: Any) -> dict[str, tuple[list[str], str]]:
    """user -> (history, target) of the rows of a loader, in names."""
    dataset = data._dataset
    users, items = (dataset.field2id_token[field] for field in (dataset.uid_field, dataset.iid_field))
    rows = dataset.inter_feat
    lists, lengths = rows[f"{dataset.iid_field}_list"].numpy(), rows[dataset.item_list_length_field].numpy()
    return {
        str(users[user]): ([str(items[i]) for i in history[:length]], str(items[target]))
        for user, history, length, target in zip(
            rows[dataset.uid_field].numpy(), lists, lengths, rows[dataset.iid_field].numpy(), strict=True
        )
    }


@pytest.mark.parametrize("form", ["events", "rows"])
@pytest.mark.parametrize("model", ["SASRec", "PackedSASRec"])
def test_a_held_out_row_is_the_history_before_its_event(model: str, form: str, tmp_path: Path) -> None:
    found = load(model, files(tmp_path / "d", form))
    for data, place in ((found.valid, LENGTH - 2), (found.test, LENGTH - 1)):
        assert histories(data) == {
            user: (items[place - 5 : place], items[place]) for user, items in LOG.items()
        }


@pytest.mark.parametrize("form", ["events", "rows"])
def test_the_files_give_the_events_of_the_log(form: str, tmp_path: Path) -> None:
    found = load("PackedSASRec", files(tmp_path / "d", form))
    train = found.train._dataset.train_events()
    names = found.dataset.field2id_token
    per_user: dict[str, list[str]] = {}
    for user, item in zip(train.users.tolist(), train.items.tolist(), strict=True):
        per_user.setdefault(str(names["user_id"][user]), []).append(str(names["item_id"][item]))
    assert per_user == {user: items[: LENGTH - 2] for user, items in LOG.items()}


@pytest.mark.parametrize("model", ["Pop", "BPR", "SASRec", "PackedSASRec", "WindowItemKNN"])
def test_every_kind_of_model_runs_on_files_of_events(model: str, tmp_path: Path) -> None:
    result = run(model, "small", config_dict=files(tmp_path / "d", "events"), saved=False)
    assert len(result["test"].targets) == USERS


def test_the_split_of_the_files_is_that_of_the_log(tmp_path: Path) -> None:
    """The same events, split by RecBole's leave-one-out or read from three files: the same places."""
    values = files(tmp_path / "d", "events")
    split = run("WindowItemKNN", "small", config_dict=values, saved=False)
    folder = tmp_path / "d" / "small"
    lines = [(folder / f"small.{name}.inter").read_text().splitlines() for name in ("train", "valid", "test")]
    (folder / "small.inter").write_text(
        "\n".join([lines[0][0], *(row for part in lines for row in part[1:])])
    )
    whole = run("WindowItemKNN", "small", config_dict={**values, "benchmark_filename": None}, saved=False)
    assert split["test_result"] == whole["test_result"]
    assert np.array_equal(split["test"].places, whole["test"].places)


def test_a_later_event_in_an_earlier_file_is_refused(tmp_path: Path) -> None:
    values = files(tmp_path / "d", "events")
    with (tmp_path / "d" / "small" / "small.train.inter").open("a") as file:
        file.write("u3\ti0\t99\n")
    for model in ("SASRec", "PackedSASRec"):
        with pytest.raises(UserError, match=r"user 'u3' has an event in the training file that lies after"):
            load(model, values)


def test_histories_that_are_no_log_are_refused_for_packed_training(tmp_path: Path) -> None:
    values = files(tmp_path / "d", "rows")
    path = tmp_path / "d" / "small" / "small.test.inter"
    path.write_text(path.read_text().replace("i9 i10", "i10 i9"))
    with pytest.raises(UserError, match="not what that user's earlier rows add up to"):
        load("PackedSASRec", values)


@pytest.mark.parametrize("names", [["train", "test"], ["train", "valid", "nothing"]])
def test_files_that_are_not_there(names: list[str], tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"benchmark_filename must name three|small.nothing.inter does not exist"
    ):
        load("SASRec", files(tmp_path / "d", "events", benchmark_filename=names))
