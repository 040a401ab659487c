"""Every RecBole model runs, reloads and continues as docs/recbole_models.md says, or is refused by name."""

from __future__ import annotations

import random
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from recbole_sigma._compat import repaired_model
from recbole_sigma.models import registry, stock
from recbole_sigma.quick_start import evaluate_checkpoint, run
from recbole_sigma.run.trainer import RunTrainer
from recbole_sigma.values import UserError
from tests.planted import build, events_config

TABLE = Path(registry.__file__).parents[2] / "docs" / "recbole_models.md"
ROW = re.compile(r"^\| (\w+) \| (\w+) \| (yes|no) \| (yes|no|-) \| (.*?) ?\|$", re.M)
ROWS = {found[1]: found for found in ROW.finditer(TABLE.read_text(encoding="utf-8"))}
USERS, ITEMS = 40, 110

KNOWLEDGE = {
    "additional_feat_suffix": ["ent", "rel"],
    "alias_of_entity_id": ["ent_id"],
    "alias_of_relation_id": ["rel_id"],
    "preload_weight": {"ent_id": "ent_emb", "rel_id": "rel_emb"},
}
MORE: dict[str, dict[str, Any]] = {
    "SASRecF": {"selected_features": ["class"]},
    "GRU4RecF": {"selected_features": ["class"]},
    "FDSA": {"selected_features": ["class"]},
    "S3Rec": {"pretrain_epochs": 3, "save_step": 2},
    "RaCT": {"pretrain_epochs": 2, "save_step": 1},
    "NCL": {"num_clusters": 5},
    "KSR": KNOWLEDGE,
    "GRU4RecKG": KNOWLEDGE,
    "SIGMA": {"grounding_steps": 3},
    "TIGER": {"grounding_steps": 3, "tokenizer_codebook_size": 8},
    "DIN": {"threshold": {"rating": 3}, "MAX_ITEM_LIST_LENGTH": 4},
    "DIEN": {"threshold": {"rating": 3}, "MAX_ITEM_LIST_LENGTH": 4},
    "SSR": {"threshold": {"rating": 3}, "embedding_size": 8},
    "ImplicitRM": {"threshold": {"rating": 3}},
}
FAST = ("SASRecF", "LightGCN", "RippleNet", "S3Rec", "KD_DAGFM")
DRAWS = {"ADMMSLIM", "Random", "KTUP"}
"""Models whose scores hold fresh noise, so that no second judgement equals the first."""


@pytest.fixture(scope="module")
def values(tmp_path_factory) -> dict[str, Any]:
    """A small set with ratings, features of users and items, and a knowledge graph."""
    root = tmp_path_factory.mktemp("every")
    draw, folder = random.Random(0), root / "s"
    folder.mkdir()
    events = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(USERS):
        start = draw.randrange(ITEMS)
        for step in range(draw.randint(6, 9)):
            rating, time = draw.choice([1, 2, 4, 5]), 1_300_000_000 + user + 90_000 * step
            events.append(f"u{user}\ti{(start + step) % ITEMS}\t{rating}\t{time}")
    vector = " ".join(["0.1", "-0.2", "0.3", "0.4"] * 16)
    entities, relations = [f"m{k}" for k in range(ITEMS + 9)], ["r0", "r1", "r2"]
    tables = {
        "inter": events,
        "item": ["item_id:token\ttitle:token_seq\tclass:token_seq"]
        + [f"i{k}\titem number {k}\tc{k % 3} d{k % 2}" for k in range(ITEMS)],
        "user": ["user_id:token\tage:token\tgender:token"]
        + [f"u{k}\t{20 + k % 5}\t{'MF'[k % 2]}" for k in range(USERS)],
        "link": ["item_id:token\tentity_id:token"] + [f"i{k}\tm{k}" for k in range(ITEMS)],
        "kg": ["head_id:token\trelation_id:token\ttail_id:token"]
        + [f"m{k}\tr{j}\tm{ITEMS + k * (j + 1) % 9}" for k in range(ITEMS) for j in range(3)],
        "ent": ["ent_id:token\tent_emb:float_seq"] + [f"{name}\t{vector}" for name in entities],
        "rel": ["rel_id:token\trel_emb:float_seq"] + [f"{name}\t{vector}" for name in relations],
    }
    for name, lines in tables.items():
        (folder / f"s.{name}").write_text("\n".join(lines) + "\n")
    columns = {name: [c.split(":")[0] for c in lines[0].split("\t")] for name, lines in tables.items()}
    return {
        "data_path": str(root), "load_col": columns, "topk": [5], "valid_metric": "NDCG@5", "epochs": 2,
        "metrics": ["NDCG", "Hit"], "train_batch_size": 64, "embedding_size": 64, "MAX_ITEM_LIST_LENGTH": 8,
        "text_fields": ["title"], "category_field": "class", "brand_field": None, "profile_fields": [],
        "show_progress": False, "state": "ERROR",
    }  # fmt: skip


class Stop(KeyboardInterrupt):
    """The end of a run in its second epoch."""


def check(name: str, values: dict[str, Any]) -> None:
    """Train, reload, stop, continue: as the table says."""
    _, _, runs, resumes, _ = ROWS[name].groups()
    values = {**values, **MORE.get(name, {})}
    if "context" in ROWS[name][2]:
        values["threshold"] = {"rating": 3}
    if "threshold" in values and values.get("judged_by") != "labels":
        values["judged_by"] = "lists"
    if runs == "no":
        with pytest.raises(UserError, match=name):
            run(name, "s", config_dict=values)
        return
    whole = run(name, "s", config_dict={**values, "checkpoint_dir": "whole"})
    if name not in DRAWS:
        assert evaluate_checkpoint(whole["checkpoint"]).metrics == whole["test_result"]
    real = RunTrainer._train_epoch

    def stop(self: Any, data: Any, epoch: int, *args: Any, **more: Any) -> Any:
        if epoch == 1:
            raise Stop
        return real(self, data, epoch, *args, **more)

    values["checkpoint_dir"] = "cut"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunTrainer, "_train_epoch", stop)
        try:
            run(name, "s", config_dict=values)
        except Stop:
            pass
    if resumes == "no":
        with pytest.raises(UserError, match="training loop of its own"):
            run(name, "s", config_dict={**values, "resume": True})
        return
    again = run(name, "s", config_dict={**values, "resume": True})
    assert [e["train_loss"] for e in again["history"]] == [e["train_loss"] for e in whole["history"]]
    if name not in DRAWS:
        assert again["test_result"] == whole["test_result"]


LABELLED = tuple(
    name for name, row in ROWS.items() if row[2] == "context" or name in ("DIN", "DIEN", "SSR", "ImplicitRM")
)


def check_by_labels(name: str, values: dict[str, Any]) -> None:
    """`check` of a model on labelled rows."""
    lists = ("topk", "valid_metric", "metrics")
    rest = {key: value for key, value in values.items() if key not in lists}
    check(name, {**rest, "judged_by": "labels", "threshold": {"rating": 3}})


def test_the_table_names_every_model() -> None:
    assert ROWS.keys() == set(registry.model_names())
    for name, row in ROWS.items():
        if name in stock.TREES or name in stock.NEEDS_PACKAGE:
            assert row[3] == "no"
        else:
            assert row[3] == "yes" and stock.refusal(name) is None


@pytest.mark.parametrize("name", FAST)
def test_models_that_once_stopped(name: str, values) -> None:
    check(name, values)


@pytest.mark.parametrize("name", ["DeepFM", "DIN"])
def test_models_on_labelled_rows(name: str, values) -> None:
    check_by_labels(name, values)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(LABELLED) - {"DeepFM", "DIN"}))
def test_every_other_model_on_labelled_rows(name: str, values) -> None:
    check_by_labels(name, values)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(ROWS) - set(FAST)))
def test_every_other_model(name: str, values) -> None:
    check(name, values)


def test_pre_training_and_fine_tuning_follow_each_other(values) -> None:
    """S3Rec's second stage starts from the checkpoint of its first."""
    values = {**values, **MORE["S3Rec"], "item_attribute": "class"}
    first = run("S3Rec", "s", config_dict=values)
    second = {**values, "train_stage": "finetune", "pre_model_path": first["checkpoint"], "epochs": 1}
    done = run("S3Rec", "s", config_dict=second)
    Path(first["checkpoint"]).unlink()
    assert evaluate_checkpoint(done["checkpoint"]).metrics == done["test_result"]


def test_a_batch_in_which_no_item_is_masked_costs_nothing(values) -> None:
    """RecBole's BERT4Rec divides its loss by the number of masked items, which are drawn."""
    values = {**values, "train_batch_size": 1, "mask_ratio": 0.13, "epochs": 1, "n_layers": 1}
    result = run("BERT4Rec", "s", config_dict=values)
    assert result["history"][0]["train_loss"][0] > 0


FEATURES = {
    **{name: "selected_features" for name in ("SASRecF", "GRU4RecF", "FDSA")},
    "S3Rec": "item_attribute",
}


@pytest.mark.parametrize("model", FEATURES)
@pytest.mark.parametrize(
    "loaded",
    [
        {"load_col": None, "unload_col": {"item": ["class"]}},
        {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": None}},
        {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title"]}},
        {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}},
    ],
)
def test_a_feature_that_is_not_loaded_is_named(model: str, loaded: dict[str, Any], values) -> None:
    key = FEATURES[model]
    assert stock.READS_FEATURES[key].count(model) == 1
    with pytest.raises(UserError, match=f"{key} names 'class', which is no item column that is loaded"):
        run(model, "s", config_dict={**values, key: "class", **loaded})
    with pytest.raises(UserError, match=f"{key} is empty, but {model} reads"):
        run(model, "s", config_dict={**values, key: None, **loaded})


# --- draws that must find something ---


@pytest.fixture
def in_time():
    """A minute for the test: a draw without end would hang it."""

    def late(*_: Any) -> None:
        raise TimeoutError("a draw does not end")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def everything_met(folder: Path, spare: int = 0, items: int = 6) -> dict[str, Any]:
    """Values of a set whose users have all met all items, but for ``spare`` items that stand in no event."""
    events = [(f"u{u}", f"i{(u + k) % items}", 1_300_000_000 + k) for u in range(8) for k in range(items + 3)]
    return {**events_config(folder / "full", events, spare=spare), "filter_seen": False, "epochs": 1}


UNIFORM = {"distribution": "uniform", "sample_num": 1, "alpha": 1.0, "dynamic": False, "candidate_num": 0}
POPULARITY = {**UNIFORM, "distribution": "popularity"}


@pytest.mark.usefixtures("in_time")
@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("BERT4Rec", {"loss_type": "CE", "train_neg_sample_args": None, "mask_ratio": 0.9}),
        ("BERT4Rec", {"loss_type": "BPR", "train_neg_sample_args": None, "mask_ratio": 0.9}),
        ("LINE", {"spare": 1}),
        ("PackedSASRec", {"sasrec_loss": "BCE"}),
        ("SASRec", {"loss_type": "BPR", "train_neg_sample_args": POPULARITY}),
        ("DIEN", {"spare": 1, "judged_by": "lists"}),
    ],
)
def test_models_that_draw_negatives_end_where_everything_was_met(
    model: str, more: dict[str, Any], tmp_path: Path
) -> None:
    values = {**everything_met(tmp_path, more.pop("spare", 0)), **more}
    assert run(model, "full", config_dict=values, saved=False)["history"]


@pytest.mark.usefixtures("in_time")
@pytest.mark.parametrize(
    ("spare", "negatives", "sentence"),
    [(0, UNIFORM, "interacted with all items"), (3, POPULARITY, "train_neg_sample_args: .* uniform")],
)
def test_a_user_who_has_met_all_that_is_drawn_from_is_told(
    spare: int, negatives: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    values = {**everything_met(tmp_path, spare), "train_neg_sample_args": negatives}
    with pytest.raises(UserError, match=sentence):
        run("BPR", "full", config_dict=values, saved=False)


@pytest.mark.usefixtures("in_time")
def test_the_pre_training_of_s3rec_ends_where_everything_was_met(values) -> None:
    config, data, _ = build("S3Rec", "s", {**values, **MORE["S3Rec"], "item_attribute": "class"})
    network = repaired_model(config.model_class)(config, data.train._dataset)
    everything = list(range(1, network.n_items))
    assert network._neg_sample(everything) in everything
    assert network._neg_sample(everything[1:]) == 1


@pytest.mark.parametrize("model", ["Pop", "BPR", "SASRec", "ClosedForm"])
def test_a_catalogue_of_one_item_is_refused(model: str, tmp_path: Path) -> None:
    values = {**everything_met(tmp_path, items=1), "topk": [1], "valid_metric": "NDCG@1"}
    with pytest.raises(UserError, match="holds 1 item, so there is nothing to rank"):
        run(model, "full", config_dict=values, saved=False)
