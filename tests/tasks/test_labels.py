"""Labels of packed rows: at qualified positions only, with the right words, by the mixture."""

import numpy as np
import pytest
import torch

from recbole_sigma.config import SigmaConfig
from recbole_sigma.data import FIRST_EVENT
from recbole_sigma.instructions.samples import tasks_of
from recbole_sigma.models.task_labels import build_task_labels
from recbole_sigma.quick_start import build_model, load_data, load_data_and_model
from recbole_sigma.values import UserError


def build(settings, **changes):
    config = SigmaConfig("SIGMA", "chosen", None, {**settings, **changes})
    data = load_data(config, config.model_class)
    return config, data, build_model(config, config.model_class, data.train)


def rows_of(data):
    rows = data.train._dataset.inter_feat
    return rows, rows[FIRST_EVENT], rows["item_length"] + 1


@pytest.mark.parametrize("cold", [False, True])
def test_a_label_sits_where_its_task_qualifies_and_says_its_slot(valid_chosen, cold):
    _, data, model = build(valid_chosen, task_empty_history=cold, tasks=["Category", "Longtail"])
    labels, dataset = model.task_labels, data.train._dataset
    rows, first, length = rows_of(data)
    torch.manual_seed(0)
    draw = labels.draw(first, length, 6)
    event = first[:, None] + 1 + draw.after
    items = torch.from_numpy(dataset.packer.items)[event]
    histories, targets = rows["item_id_list"], rows["item_id"]
    whole = torch.cat([histories, torch.zeros(len(histories), 1, dtype=torch.int64)], dim=1)
    whole[torch.arange(len(whole)), length - 1] = targets
    assert torch.equal(whole.gather(1, draw.after + 1), items)  # the label is the row's own event
    assert ((draw.after < length[:, None] - 1) & (draw.after >= (-1 if cold else 0))).all()
    assert bool((draw.after == -1).any()) == cold
    material = labels.tasks.material
    ranks = dataset.packer.ranks[event.numpy()]
    texts = {tuple(row): text for text, row in zip(*_texts(labels), strict=True)}
    seen = np.zeros(3)
    for task, rank, item, text in zip(
        draw.task.ravel(),
        ranks.ravel(),
        items.ravel().tolist(),
        draw.text.reshape(-1, labels.width),
        strict=True,
    ):
        name = labels.names[int(task)]
        assert rank in labels.tasks.rows[name].ranks
        words = texts[tuple(text.tolist())]
        assert words.endswith(f": {material.labels[item][0]}") == (name == "Category")
        seen[int(task)] += 1
    assert (seen > 0).all()


def _texts(labels):
    texts = labels.tasks.texts()
    return texts, labels.encode(texts).tolist()


def test_tasks_are_drawn_by_the_mixture(valid_chosen):
    _, data, model = build(valid_chosen, tasks=["Category", "Longtail"])
    _, first, length = rows_of(data)
    rows = torch.nonzero(length == length.max())[:1, 0].expand(4000)  # a long row carries every task
    draw = model.task_labels.draw(first[rows], length[rows], 5)
    share = torch.bincount(draw.task.ravel(), minlength=3).double() / draw.task.numel()
    wanted = torch.tensor(list(model.task_labels.tasks.mixture().values()), dtype=torch.float64)
    torch.testing.assert_close(share, wanted, atol=0.02, rtol=0)


def test_rows_of_single_events_are_made_only_on_request(valid_chosen):
    _, warm, _ = build(valid_chosen)
    _, cold, model = build(valid_chosen, task_empty_history=True)
    assert (warm.test._dataset.inter_feat["item_length"] > 0).all()
    assert (cold.test._dataset.inter_feat["item_length"] == 0).any()
    model.eval()
    empty = cold.test._dataset.inter_feat["item_length"] == 0
    batch = cold.test._dataset.inter_feat[torch.nonzero(empty)[:, 0]]
    ranked = model.rank(batch, 4)
    assert (ranked.items > 0).all()


def test_a_label_after_an_empty_history_is_the_generated_prediction(valid_chosen):
    """Training and generation meet a first event in the same state."""
    from recbole_sigma.models.task_labels import LabelDraw

    _, data, model = build(valid_chosen, task_empty_history=True)
    model.eval()
    with torch.no_grad():
        model.instruction_gate.fill_(0.7)
        rows = data.test._dataset.inter_feat
        batch = rows[torch.nonzero(rows["item_length"] == 0)[:3, 0]]
        _, context, unit = model._prompt(batch)
        items = batch["item_id"][:, None]
        draw = LabelDraw(torch.full((3, 1), -1), model.instructions[:1].expand(3, 1, -1))
        history, branches, start = model.trunk.packed(
            batch["user_id"],
            items,
            torch.ones(3, dtype=torch.int64),
            model.fusion(),
            draw.after,
            draw.text,
            items,
        )
        states = model._history_contexts(history, items, unit)
        trained, _ = model._label_states(states, branches, draw.after, start)
    torch.testing.assert_close(trained, context, atol=1e-5, rtol=1e-4)


def test_single_task_has_no_component_and_no_tables(valid_chosen):
    config, data, model = build(valid_chosen, tasks=["JustForYou"])
    assert model.task_labels is None and tasks_of(data.train._dataset, config) is None
    assert not any("task_labels" in name for name in model.state_dict())


def test_tasks_without_labels_are_refused(valid_chosen):
    with pytest.raises(UserError, match="task_labels_per_row"):
        build(valid_chosen, task_labels_per_row=0)


def test_a_checkpoint_refuses_other_task_files(valid_chosen, trained, tmp_path):
    from tests.instructions.conftest import write_tasks

    folder = write_tasks(tmp_path / "task_files")
    text = (folder / "category.yaml").read_text().replace("Predict the next item among", "Choose among")
    (folder / "category.yaml").write_text(text)
    with pytest.raises(UserError, match="other words"):
        load_data_and_model(trained["checkpoint"], {"task_dir": str(folder)})


def test_each_tasks_loss_is_noted_and_the_instruction_lowers_it(trained, valid_chosen):
    _, data, model = build(valid_chosen)
    labels = build_task_labels(
        SigmaConfig("SIGMA", "chosen", None, valid_chosen), data.train._dataset, model.prepared
    )
    labels.note(torch.tensor([[0, 1], [1, 1]]), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    labels.eval()
    (means,) = labels.history
    assert means == {"JustForYou": {"loss": 1.0, "labels": 1}, "Category": {"loss": 3.0, "labels": 3}}
    labels.train()
    labels.eval()
    assert len(labels.history) == 1  # nothing was trained in between
