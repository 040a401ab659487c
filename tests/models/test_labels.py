"""Labels of packed rows: at qualified positions only, with the right words, by the mixture."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_sigma.data.windows import FIRST_EVENT
from recbole_sigma.decoding.top_k import top_k
from recbole_sigma.instructions.phrases import words_of
from recbole_sigma.instructions.samples import tasks_of
from recbole_sigma.models.sigma.branches import LabelStates
from recbole_sigma.models.sigma.labels import INSTRUCTION, build_task_labels
from recbole_sigma.models.sigma.trunk import Histories
from recbole_sigma.quick_start import load_data_and_model
from recbole_sigma.run.config import RunConfig
from recbole_sigma.values import UserError
from tests.arithmetic import SCORES, SHARES, STATES, same_list
from tests.planted import COLOURS, build, write_tasks


def rows_of(data):
    rows = data.train._dataset.inter_feat
    return rows, rows[FIRST_EVENT], rows["item_length"] + 1


@pytest.mark.parametrize("cold", [False, True])
def test_a_label_sits_where_its_task_qualifies_and_says_its_slot(valid_chosen, cold):
    _, data, model = build(
        "SIGMA", "chosen", valid_chosen, task_empty_history=cold, tasks=["Category", "Longtail"]
    )
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
        words = words_of(texts[tuple(text.tolist())])
        assert any(kind in words for kind in COLOURS) == (name == "Category")
        assert name != "Category" or material.labels[item][0] in words
        seen[int(task)] += 1
    assert (seen > 0).all()


def _texts(labels):
    texts = labels.tasks.texts()
    return texts, labels.encode(texts).tolist()


def test_tasks_are_drawn_by_the_mixture(valid_chosen):
    _, data, model = build("SIGMA", "chosen", valid_chosen, tasks=["Category", "Longtail"])
    _, first, length = rows_of(data)
    rows = torch.nonzero(length == length.max())[:1, 0].expand(4000)  # a long row carries every task
    draw = model.task_labels.draw(first[rows], length[rows], 5)
    share = torch.bincount(draw.task.ravel(), minlength=3).double() / draw.task.numel()
    wanted = torch.tensor(list(model.task_labels.tasks.mixture().values()), dtype=torch.float64)
    torch.testing.assert_close(share, wanted, atol=0.02, rtol=0)


def test_words_that_training_never_saw_are_left_out_and_named(valid_chosen):
    _, _, model = build("SIGMA", "chosen", valid_chosen)
    labels, text = model.task_labels, TEXTS[0]
    trained = set(labels.texts.unique().tolist())
    strange = next(
        letter
        for letter in "qxzjvk0123456789#$%&@~ßéλ"
        if labels.tokenizer.encode(letter, add_special_tokens=False).ids[-1] not in trained
    )
    assert labels.unknown_words(text) == []
    assert labels.unknown_words(f"{strange}, {text} {strange}{strange}?") == [strange, strange * 2]
    plain, mixed, nothing = labels.encode([text, f"{strange}{text}{strange}", strange])
    assert set(mixed.tolist()) <= trained and mixed[-1] == plain[-1] and (nothing == labels.pad).all()
    kept = int((mixed != labels.pad).sum())
    assert 1 < kept and (mixed[-kept:] != labels.pad).all()  # one block at the right, without gaps
    assert (labels.encode([""]) == labels.pad).all() and labels.encode([]).shape == (0, labels.width)
    assert (labels.encode([" ".join([text] * 50)]) != labels.pad).all()


def test_known_words_are_those_of_training_instructions(valid_chosen):
    """`tests/instructions/test_rules.py` shows that nothing held out reaches ``tasks.texts()``."""
    _, _, model = build("SIGMA", "chosen", valid_chosen)
    labels = model.task_labels
    trained = {
        token
        for text in labels.tasks.texts()
        for token in labels.tokenizer.encode(text, add_special_tokens=False).ids
    }
    known = set(torch.nonzero(labels.known)[:, 0].tolist())
    assert known - set(labels.wordless) <= trained and len(known) > 10


def test_rows_of_single_events_are_made_only_on_request(valid_chosen):
    _, warm, _ = build("SIGMA", "chosen", valid_chosen)
    _, cold, model = build("SIGMA", "chosen", valid_chosen, task_empty_history=True)
    assert (warm.test._dataset.inter_feat["item_length"] > 0).all()
    assert (cold.test._dataset.inter_feat["item_length"] == 0).any()
    model.eval()
    empty = cold.test._dataset.inter_feat["item_length"] == 0
    batch = cold.test._dataset.inter_feat[torch.nonzero(empty)[:, 0]]
    ranked = model.rank(batch, 4)
    assert (ranked.items > 0).all()


def test_a_label_after_an_empty_history_is_the_generated_prediction(valid_chosen):
    """Training and generation meet a first event in the same state."""
    from recbole_sigma.models.sigma.labels import LabelDraw

    _, data, model = build("SIGMA", "chosen", valid_chosen, task_empty_history=True)
    model.eval()
    with torch.no_grad():
        model.branches.gate.fill_(0.7)
        rows = data.test._dataset.inter_feat
        batch = rows[torch.nonzero(rows["item_length"] == 0)[:3, 0]]
        wording = model.branches.instructions[:1]
        batch.update(Interaction({INSTRUCTION: wording.expand(3, -1)}))
        table = model.item_table()
        context = model._prompt(batch, batch["item_length"], table).context
        items = batch["item_id"][:, None]
        draw = LabelDraw(torch.full((3, 1), -1), wording.expand(3, 1, -1))
        histories = Histories(batch["user_id"], items, torch.ones(3, dtype=torch.int64), items)
        slots, branches, start = model.trunk.packed(histories, table.tokens, model.branches.of(draw, items))
        states = slots[:, :, -1] + model.paths(items, table.tokens, table.vectors)
        found = model.branches.states(draw, states, branches, start)
        trained = (found.base + model.branches.gate * found.end)[:, 0]
    torch.testing.assert_close(trained, context, **STATES)


def test_general_labels_train_the_history_alone(valid_chosen):
    """What a general instruction adds is no part of its labels' loss, only of the pull to zero."""
    _, data, model = build("SIGMA", "chosen", valid_chosen)
    batch, _, length = rows_of(data)
    model.eval()
    labels = model.task_labels
    draw = labels.draw(batch[FIRST_EVENT], length, 2)
    general = torch.full_like(draw.task, labels.general)
    rows = model.packed_rows(batch)

    def label_loss(task):
        own, table = replace(draw, task=task), model.item_table()
        found = LabelStates.of_groups([model._read(rows, group, table, own)[2] for group in rows.groups])
        return model.branches.loss(model.objective, own, found, rows.items, table, 1.0, False)

    with torch.no_grad():
        model.branches.gate.fill_(0.5)
        model.branches.word_path.words.weight.normal_()
        opened, other = label_loss(general), label_loss((general + 1) % len(labels.names))
        model.branches.gate.zero_()
        model.branches.word_path.words.weight.zero_()
        shut = label_loss(general)
    assert opened > shut + 1.0  # the pull
    assert other != opened
    torch.testing.assert_close(label_loss((general + 1) % len(labels.names)), shut)  # nothing added, no pull
    label_loss(general).backward()
    assert not model.branches.word_path.words.weight.grad.any() and not model.branches.gate.grad.any()


@pytest.mark.parametrize("objective", ["paper", "joint"])
def test_without_an_instruction_the_history_answers_alone(valid_chosen, objective):
    _, data, model = build("SIGMA", "chosen", valid_chosen, sigma_objective=objective)
    model.eval()
    rows = data.test._dataset.inter_feat
    batch = rows[torch.nonzero(rows["item_length"] > 0)[:4, 0]]
    with torch.no_grad():
        model.branches.gate.fill_(0.7)
        model.branches.word_path.words.weight[model.trunk.pad + 1 :].normal_(std=0.3)
        plain = model.score_all(batch)
        batch.update(Interaction({INSTRUCTION: model.task_labels.encode(TEXTS)}))
        instructed = model.score_all(batch)
        batch.update(Interaction({INSTRUCTION: model.task_labels.encode([""] * 4)}))
        empty = model.score_all(batch)
        model.branches.gate.zero_()
        model.branches.word_path.words.weight.zero_()
        alone = model.score_all(batch)
        assert torch.equal(plain, empty) and torch.equal(plain, alone)
        # the padding of an empty instruction is read by nothing
        model.trunk.backbone.get_input_embeddings().weight[model.trunk.pad] += 3.0
        torch.testing.assert_close(model.score_all(batch), plain, **SCORES)
    assert not torch.allclose(instructed, plain, atol=0.1)


def test_divergence_is_half_the_variance_of_the_change_in_the_logits():
    from recbole_sigma.models.sigma.paths import covariance, divergence

    vectors, change = torch.randn(50, 6), torch.randn(4, 6)
    by_hand = 0.5 * (change @ vectors[1:].T).var(dim=1, correction=0)
    torch.testing.assert_close(divergence(change, covariance(vectors)), by_hand)
    small = 0.01 * change
    flat, moved = torch.zeros(4, 49).log_softmax(1), (small @ vectors[1:].T).log_softmax(1)
    kl = (flat.exp() * (flat - moved)).sum(1)
    torch.testing.assert_close(divergence(small, covariance(vectors)), kl, rtol=0.02, atol=0)


def test_single_task_has_no_component_and_no_tables(valid_chosen):
    config, data, model = build("SIGMA", "chosen", valid_chosen, tasks=["JustForYou"])
    assert model.task_labels is None and tasks_of(data.train._dataset, config) is None
    assert model.branches.word_path is None
    assert not any("task_labels" in name or "word_path" in name for name in model.state_dict())


def instructed_rows(data, model, texts):
    rows = data.test._dataset.inter_feat
    batch = rows[torch.nonzero(rows["item_length"] > 0)[: len(texts), 0]]
    batch.update(Interaction({INSTRUCTION: model.task_labels.encode(texts)}))
    return batch


TEXTS = ["Recommend an item from the category: green", "red, please", "zyx", "Predict the next item."]


def test_words_start_as_nothing_and_add_one_term_to_every_logit(valid_chosen):
    """P(item | history, words) is proportional to P(item | history) exp(<words, item>)."""
    _, data, model = build(
        "SIGMA",
        "chosen",
        valid_chosen,
        tokenizer_prefix_length=0,
    )
    model.eval()
    batch = instructed_rows(data, model, TEXTS)
    path = model.branches.word_path
    with torch.no_grad():
        without = model.score_all(batch)
        table = torch.randn_like(path.words.weight)
        table[path.words.padding_idx] = 0.0
        path.words.weight.copy_(table)
        got = model.score_all(batch)
        words = torch.stack([table[row[row != path.words.padding_idx]].sum(0) for row in batch[INSTRUCTION]])
        wanted = (without + path.scale * words @ model.item_tokens().T).log_softmax(-1)
    torch.testing.assert_close(got, wanted, **SCORES)
    assert not torch.allclose(got[:, 1:], without[:, 1:], atol=1.0)


@pytest.mark.parametrize("values", [{}, {"sigma_objective": "paper", "decode_mode": "fixed_temp"}])
def test_words_leave_one_distribution_over_the_catalogue(valid_chosen, values):
    """Lists and scores of both objectives agree, and the probabilities of all items sum to one."""
    _, data, model = build("SIGMA", "chosen", valid_chosen, **values)
    model.eval()
    batch = instructed_rows(data, model, TEXTS)
    with torch.no_grad():
        model.branches.word_path.words.weight.normal_(std=0.3)
        scores = model.score_all(batch)
        ranked = model.rank(batch, 5)
    torch.testing.assert_close(scores[:, 1:].exp().sum(1), torch.ones(4), **SHARES)
    same_list(ranked, top_k(scores, 5))


def test_training_meets_the_words_that_generation_reads(valid_chosen):
    """The loss of a label is minus the log probability that its instruction gives its item."""
    from recbole_sigma.models.sigma.labels import LabelDraw

    _, data, model = build("SIGMA", "chosen", valid_chosen, task_labels_per_row=1)
    model.eval()
    batch = instructed_rows(data, model, TEXTS)
    with torch.no_grad():
        model.branches.word_path.words.weight.normal_(std=0.3)
        wanted = -model.predict(batch)
        noted = []
        model.task_labels.note = lambda task, each: noted.append(each)
        after, text = (batch["item_length"] - 1)[:, None], batch[INSTRUCTION][:, None]
        draw = LabelDraw(after, text, torch.ones_like(after))  # 0 is JustForYou
        model.branches.take_part = lambda: True
        model.branches.draw = lambda *_: draw
        model.calculate_loss(batch)
    # rows of similar length are computed together, in an order of their own
    torch.testing.assert_close(torch.cat(noted).sort()[0], wanted.sort()[0], **SCORES)


def test_tasks_without_labels_are_refused(valid_chosen):
    with pytest.raises(UserError, match="task_labels_per_row"):
        build("SIGMA", "chosen", valid_chosen, task_labels_per_row=0)


def test_a_checkpoint_refuses_other_task_files(valid_chosen, chosen_run, tmp_path):
    folder = write_tasks(tmp_path / "task_files")
    text = (folder / "category.yaml").read_text().replace("Predict the next item among", "Choose among")
    (folder / "category.yaml").write_text(text)
    with pytest.raises(UserError, match="other words"):
        load_data_and_model(chosen_run["checkpoint"], {"task_dir": str(folder)})


def test_each_tasks_loss_is_noted_and_the_instruction_lowers_it(chosen_run, valid_chosen):
    _, data, model = build("SIGMA", "chosen", valid_chosen)
    labels = build_task_labels(
        RunConfig("SIGMA", "chosen", None, valid_chosen), data.train._dataset, model.prepared
    )
    labels.note(torch.tensor([[0, 1], [1, 1]]), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    labels.eval()
    (means,) = labels.history
    assert means == {"JustForYou": {"loss": 1.0, "labels": 1}, "Category": {"loss": 3.0, "labels": 3}}
    labels.train()
    labels.eval()
    assert len(labels.history) == 1  # nothing was trained in between


def test_labels_of_prefixes_hang_at_their_own_target(valid_chosen):
    settings = {**valid_chosen, "train_rows": "prefixes", "tasks": ["Category", "Longtail"]}
    _, data, model = build("SIGMA", "chosen", settings)
    _, first, length = rows_of(data)
    draw = model.task_labels.draw(first, length, 3, last=True)
    assert torch.equal(draw.after, (length - 2)[:, None].expand(-1, 3))
    assert len(draw.task.unique()) == 3
