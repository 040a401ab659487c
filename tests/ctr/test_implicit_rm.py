"""ImplicitRM as a model: planted preference behind positions, what it refuses, what it counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_sigma.benchmark.variants import shipped
from recbole_sigma.quick_start import load_data_and_model, run
from recbole_sigma.run.config import RunConfig
from recbole_sigma.run.loaders import load_data
from recbole_sigma.values import UserError


@pytest.fixture
def shown(tmp_path: Path) -> dict[str, Any]:
    """Rows of a list log: each item has a place of its own in it, and low places are hardly looked at."""
    draw, folder = np.random.default_rng(0), tmp_path / "data" / "shown"
    folder.mkdir(parents=True)
    taste, popular = draw.normal(size=(60, 3)), draw.normal(size=(30, 3))
    place = draw.uniform(1, 10, 30)
    like = 1 / (1 + np.exp(-1.5 * taste @ popular.T))
    lines = ["user_id:token\titem_id:token\tposition:token\tlabel:float\tliked:float"]
    for _ in range(24_000):
        user, item = draw.integers(60), draw.integers(30)
        position = int(np.clip(draw.normal(place[item], 2.5), 1, 10))
        looks = draw.random() < position**-0.7
        liked = int(draw.random() < like[user, item])
        lines.append(f"u{user}\ti{item}\t{position}\t{int(looks and liked)}\t{like[user, item]:.4f}")
    (folder / "shown.inter").write_text("\n".join(lines) + "\n")
    return {
        "data_path": str(tmp_path / "data"), "load_col": None, "show_progress": False, "state": "ERROR",
        "train_batch_size": 512, "learning_rate": 0.01, "epochs": 12, "stopping_step": 12, "seed": 3,
        "irm_activity_fields": ["position"], "irm_anchor": "position=1", "mlp_hidden_size": [],
        "dropout_prob": 0.0,
    }  # fmt: skip


def preference_error(shown: dict[str, Any], **more: Any) -> tuple[float, Any]:
    """Mean |r - truth| over the test rows, and the model."""
    result = run("ImplicitRM", "shown", config_dict={**shown, **more})
    _, model, _, _, _, test = load_data_and_model(result["checkpoint"])
    rows = test._dataset.inter_feat
    with torch.no_grad():
        return float((model.predict(rows) - rows["liked"]).abs().mean()), model


def test_preference_is_recovered_where_clicks_mislead(shown) -> None:
    model_error, model = preference_error(shown)
    naive_error, _ = preference_error(shown, irm_loss="click")
    assert model_error < 0.6 * naive_error
    positions = model.activity.vectors.tokens
    assert positions == ["position"]


@pytest.mark.slow
def test_the_printed_posterior_is_worse(shown) -> None:
    assert preference_error(shown, irm_loss="swapped")[0] > 1.5 * preference_error(shown)[0]


@pytest.mark.parametrize("name", [name for name in shipped() if name.startswith("ImplicitRM-")])
def test_every_row_trains_and_ranks_by_preference(name: str, clicks) -> None:
    values = {**clicks, **shipped()[name].values, "epochs": 2}
    result = run("ImplicitRM", "clicks", config_dict=values)
    _, model, _, _, _, test = load_data_and_model(result["checkpoint"])
    rows = test._dataset.inter_feat
    with torch.no_grad():
        preference, click = model.predict(rows), model.predict_click(rows)
    assert ((click <= preference + 1e-6) & (click >= 0)).all()
    torch.testing.assert_close(preference, torch.from_numpy(result["test"].scores), atol=1e-6, rtol=1e-5)


def test_em_and_direct_training_are_one(clicks) -> None:
    """The gradient is the same at every step, so what they learn differs by rounding alone."""
    values = {**clicks, "epochs": 2}
    em = run("ImplicitRM", "clicks", config_dict=values)["test"].scores
    direct = run("ImplicitRM", "clicks", config_dict={**values, "irm_loss": "direct"})["test"].scores
    np.testing.assert_allclose(em, direct, atol=1e-3)


def test_counts_come_from_train_rows_alone(clicks) -> None:
    values = {**clicks, "load_col": None, "eval_args": {"order": "TO"}}

    def buffers() -> dict[str, torch.Tensor]:
        config = RunConfig("ImplicitRM", "clicks", config_dict=values)
        train = load_data(config, config.model_class).train._dataset
        return dict(config.model_class(config, train).named_buffers())

    before = buffers()
    path = Path(clicks["data_path"]) / "clicks" / "clicks.inter"
    lines = path.read_text().splitlines()
    for at in range(1 + int(0.8 * (len(lines) - 1)), len(lines)):  # held-out rows all click on one item
        cells = lines[at].split("\t")
        if at % 2:
            cells[1], cells[2] = "i00", "1"
        lines[at] = "\t".join(cells)
    path.write_text("\n".join(lines) + "\n")
    for name, value in buffers().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


BAD = [
    (
        {"irm_activity_fields": ["kind"], "irm_preference_fields": ["kind"], "irm_anchor": None},
        "the same columns",
    ),
    ({"irm_activity_fields": ["posiion"], "irm_anchor": None}, "irm_activity_fields names 'posiion'"),
    (
        {"irm_activity_fields": ["kind"], "irm_anchor": "popularity"},
        "irm_anchor: popularity goes with",
    ),
    ({"irm_activity_fields": ["kind"], "irm_anchor": "kind"}, "irm_anchor must be popularity"),
    ({"irm_activity_fields": ["kind"], "irm_anchor": "kind=k9"}, "column 'kind' holds no value 'k9'"),
    ({"irm_activity_fields": []}, "irm_activity_fields names nothing"),
    ({"irm_preference_fields": ["label"]}, "irm_preference_fields names 'label'"),
    ({"irm_loss": "EMM"}, "irm_loss must be one of"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "sentence"), BAD)
def test_inputs_that_tell_nothing_apart_are_refused(values: dict[str, Any], sentence: str, clicks) -> None:
    with pytest.raises(UserError, match=sentence):
        run("ImplicitRM", "clicks", config_dict={**clicks, **values}, saved=False)
