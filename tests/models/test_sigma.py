"""SIGMA as a whole: planted data, exact generation, reproducibility, no leak, hostile settings."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from recbole_sigma.decoding.beam import states_of
from recbole_sigma.decoding.fusion import MODES
from recbole_sigma.decoding.top_k import top_k
from recbole_sigma.models.sigma.labels import LabelDraw
from recbole_sigma.models.sigma.trunk import Branches, Histories
from recbole_sigma.preparation.items import Prepared
from recbole_sigma.quick_start import load_data_and_model, run
from recbole_sigma.run.config import rebuild_config
from recbole_sigma.values import RankedItems, UserError
from tests import planted as scenes
from tests.arithmetic import SCORES, SHARES, STATES, same_list
from tests.planted import cycle_config, one_batch, write_cycle

OBJECTIVES = ("joint", "paper")
PAPER = {"sigma_objective": "paper"}


build = partial(scenes.build, "SIGMA", "cycle")


def test_planted_cycle_is_learned(cycle_settings):
    result = run("SIGMA", "cycle", config_dict=cycle_settings)
    assert result["test_result"]["hit@1"] >= 0.95
    assert result["seconds"]["cpu"] < 60


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("mode", MODES)
def test_probabilities_over_the_catalogue_sum_to_one(cycle_settings, objective, prefix, mode):
    changes = {"sigma_objective": objective, "tokenizer_prefix_length": prefix, "decode_mode": mode}
    _, data, model = build(cycle_settings, **changes)
    model.eval()
    batch = one_batch(data.test)
    scores = model.full_sort_predict(batch)
    assert torch.isinf(scores[:, 0]).all()
    total = scores.double().exp().sum(1)
    if mode == "top1_prefix" and prefix:
        assert (scores > -torch.inf).sum(1).max() < model.n_items - 1
    torch.testing.assert_close(total, torch.ones_like(total), **SHARES)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("mode", MODES)
def test_list_equals_the_sorted_distribution(cycle_settings, objective, mode):
    _, data, model = build(cycle_settings, sigma_objective=objective, decode_mode=mode)
    model.eval()
    batch = one_batch(data.test)
    ranked = model.rank(batch, 10)
    expected = top_k(model.full_sort_predict(batch), 10)
    same_list(ranked, expected)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("mode", MODES)
def test_seen_items_leave_the_list_and_the_distribution(cycle_settings, objective, mode):
    _, data, model = build(cycle_settings, sigma_objective=objective, decode_mode=mode)
    model.eval()
    batch = one_batch(data.test)
    seen = (torch.tensor([0, 0, 3, 3]), torch.tensor([1, 2, 5, 0]))
    ranked, free = model.rank(batch, model.n_items - 1, seen), model.rank(batch, model.n_items - 1)
    listed = [set(row.tolist()) - {0} for row in ranked.items]
    assert not listed[0] & {1, 2} and 5 not in listed[3]
    assert torch.equal(ranked.items[1], free.items[1])
    if mode != "top1_prefix":
        assert listed[0] == set(range(1, model.n_items)) - {1, 2}
    if mode != "top1_prefix":
        torch.testing.assert_close(ranked.scores.exp().sum(1), torch.ones(len(batch)), **SHARES)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_one_user_alone_gets_the_list_of_the_batch(cycle_settings, objective):
    _, data, model = build(cycle_settings, sigma_objective=objective)
    model.eval()
    batch = one_batch(data.test)
    whole = model.rank(batch, 5)
    for row in (0, 7):
        alone = model.rank(batch[row : row + 1], 5)
        same_list(alone, RankedItems(whole.items[row : row + 1], whole.scores[row : row + 1]))


def label_states(model, batch, label):
    """Context float [B, d] and prefix states [B, l, d] of one item as every row's label, by a packed row."""
    items, length = batch["item_id_list"], batch["item_length"]
    rows = torch.cat([items, torch.zeros(len(items), 1, dtype=torch.int64)], dim=1)
    rows[torch.arange(len(items)), length] = label
    text = model.branches.instructions[:1].expand(len(items), 1, -1)
    branches = Branches((length - 1)[:, None], text, torch.full((len(items), 1), label))
    table = model.item_table()
    histories = Histories(batch["user_id"], rows, length + 1, rows)
    slots, read, start = model.trunk.packed(histories, table.tokens, branches)
    states = slots[:, :, -1] + model.paths(rows, table.tokens, table.vectors)
    found = model.branches.states(LabelDraw(branches.after, text), states, read, start)
    return (found.base + model.branches.gate * found.end)[:, 0], found.path[:, 0]


def prompt_of(model, batch):
    table = model.item_table()
    return model._prompt(batch, batch["item_length"], table), table


@pytest.mark.parametrize("length, paths", [(1, []), (1, ["interest"]), (2, ["recency"]), ("all", [])])
def test_cached_prefix_states_equal_a_full_pass(cycle_settings, length, paths):
    """The item query of every prefix from the shared cache equals the one of a packed row that ends in that
    label.
    """
    _, data, model = build(cycle_settings, **PAPER, tokenizer_prefix_length=length, sigma_paths=paths)
    model.eval()
    batch = one_batch(data.test)[:4]
    catalogue = model.objective.catalogue
    with torch.no_grad():
        model.objective.prefix_gate.normal_()
        model.branches.gate.normal_()
        prompt, _ = prompt_of(model, batch)
        decoder, beams = model.objective._search(prompt, 0, None)
        fast = states_of(decoder, beams)
        assert beams.nodes.shape[1] == catalogue.n_prefixes
        for node in range(catalogue.n_prefixes):
            label = int(catalogue.order[catalogue.start[node]])
            context, path = label_states(model, batch, label)
            torch.testing.assert_close(context, prompt.context, **SCORES)
            place = (beams.nodes == node).int().argmax(1)
            torch.testing.assert_close(path[:, -1], fast[torch.arange(4), place], **SCORES)


def brute_force(model, batch, seen):
    """log P(item) of every item by teacher forcing: chain rule over codes, then the item inside its
    prefix.
    """
    objective = model.objective
    catalogue = objective.catalogue
    trie, codes = catalogue.trie, catalogue.codes
    heads = objective.language.heads()
    n = len(batch)
    banned = [{int(i) for r, i in zip(*seen, strict=True) if r == b} for b in range(n)]
    out = torch.full((n, model.n_items), -torch.inf)
    prompt, table = prompt_of(model, batch)
    unit = table.vectors
    context = prompt.context
    for label in range(1, model.n_items):
        _, path = label_states(model, batch, label)
        for b in range(n):
            total = 0.0
            for level in range(catalogue.length):
                state = context[b] if not level else context[b] + objective.prefix_gate * path[b, level - 1]
                followers = sorted(
                    {
                        int(codes[i, level])
                        for i in range(1, model.n_items)
                        if torch.equal(codes[i, :level], codes[label, :level])
                    }
                )
                share = torch.stack([state @ heads[level][code] for code in followers]).log_softmax(0)
                total += float(share[followers.index(int(codes[label, level]))])
            assert trie.find(codes[label].tolist()) == int(catalogue.prefix[label])
            query = torch.nn.functional.normalize(context[b] + objective.prefix_gate * path[b, -1], dim=0)
            query = query * objective.similarity.log_scale[0].exp()
            mates = [i for i in range(1, model.n_items) if torch.equal(codes[i], codes[label])]
            mates = [i for i in mates if i not in banned[b]]
            if label in mates:
                inside = torch.stack([query @ unit[i] for i in mates])
                out[b, label] = total + float(inside.log_softmax(0)[mates.index(label)])
    for b in range(n):  # prefixes with nothing left give their mass to the others
        out[b] -= out[b].logsumexp(0)
    return out


@pytest.mark.parametrize("length", [1, 2, "all"])
def test_lists_of_any_prefix_length_equal_brute_force(cycle_settings, length):
    changes = {**PAPER, "tokenizer_prefix_length": length, "decode_mode": "fixed_temp"}
    _, data, model = build(cycle_settings, **changes)
    model.eval()
    batch = one_batch(data.test)[:3]
    seen = (torch.tensor([0, 0, 0, 2]), torch.tensor([1, 2, 5, 7]))
    with torch.no_grad():
        model.objective.prefix_gate.normal_()
        model.branches.gate.normal_()
        model.objective.similarity.log_scale.add_(0.5)
        expected = brute_force(model, batch, seen)
    got = model.score_all(batch, seen)
    torch.testing.assert_close(got, expected, **SCORES)
    ranked = model.rank(batch, 10, seen)
    same_list(ranked, top_k(expected, 10, seen))


@pytest.mark.parametrize(
    "length, objective", [(0, "paper"), (2, "paper"), ("all", "paper"), (2, "joint"), (3, "joint")]
)
def test_every_prefix_length_learns_the_cycle(cycle_settings, length, objective):
    change = {"tokenizer_prefix_length": length, "sigma_objective": objective, "fusion_id_residual": True}
    if length == "all":  # pure semantic IDs cannot tell colliding items of the history apart
        change["tokenizer_codebook_size"] = 12
    result = run("SIGMA", "cycle", config_dict={**cycle_settings, **change}, saved=False)
    assert result["test_result"]["hit@1"] >= 0.7  # of 24 items; 40 users


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", [0, 1, 2, "all"])
def test_joint_distribution_is_one_softmax_read_in_three_steps(cycle_settings, mode, length):
    _, data, model = build(cycle_settings, tokenizer_prefix_length=length, decode_mode=mode)
    model.eval()
    batch = one_batch(data.test)
    seen = (torch.tensor([0, 0, 3]), torch.tensor([1, 2, 5]))
    scores = model.score_all(batch, seen).double()
    assert torch.isinf(scores[0, [0, 1, 2]]).all() and torch.isinf(scores[3, 5])
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(len(batch), dtype=torch.float64), **SHARES)
    if mode == "fixed_temp" or not length:
        prompt, table = prompt_of(model, batch)
        plain = (model.objective.queries(prompt.context) @ table.scored.T).double()
        plain[:, 0] = plain[seen] = -torch.inf
        torch.testing.assert_close(scores, plain.log_softmax(1), **STATES)


def test_history_settles_what_the_user_left_open(cycle_settings, caplog):
    def settled(**changes):
        left = dict.fromkeys(("epochs", "train_batch_size", "learning_rate", "sigma_mask_seen"))
        config, *_ = build(cycle_settings, **{**left, "backbone_dropout": None, **changes})
        dropped.append(config["backbone_dropout"])
        return [config[key] for key in ("sigma_paths", "fusion_inputs", *left)]

    dropped: list[float] = []

    caplog.set_level("INFO")
    short = [[], ["text"], 10, 128, 0.001, True]
    long = [["recency", "interest"], ["id", "text"], 10, 32, 0.002, True]
    assert settled() == settled(sigma_history="short") == short  # 14 train events per user
    assert "auto chose short: 14.0 train events per user" in caplog.text
    assert settled(sigma_history="long") == long
    assert settled(sigma_history="long", sigma_paths=[], learning_rate=0.5) == [[], *long[1:4], 0.5, True]
    assert settled(**PAPER) == [[], ["id", "text"], 10, 32, 0.002, False]
    # orders that are drawn anew are not learned by heart
    assert settled(sigma_history="long", train_tied="shuffled")[2] == 20
    assert settled(train_tied="shuffled") == short
    assert dropped == [0.2, 0.2, 0.3, 0.3, 0.3, 0.3, 0.2]


def test_soft_targets_follow_the_events_per_item(cycle_settings, tmp_path):
    def share(**changes):
        return build({**cycle_settings, **changes})[0]["sigma_soft_targets"]

    assert share() == 0.0  # 80 users of 14 train events over 24 items
    write_cycle(tmp_path / "few" / "cycle", users=40)
    few = cycle_config(tmp_path / "few", tmp_path)
    assert share(**few) == 0.15
    assert share(**few, sigma_soft_targets=0.3) == 0.3 and share(**few, **PAPER) == 0.0


def test_same_seed_same_metrics_other_seed_others(cycle_settings, tmp_path):
    short = {**cycle_settings, "epochs": 2, "learning_rate": 0.002}
    first = run("SIGMA", "cycle", config_dict=short, saved=False)
    again = run("SIGMA", "cycle", config_dict={**short, "artifact_dir": str(tmp_path / "fresh")}, saved=False)
    other = run("SIGMA", "cycle", config_dict={**short, "seed": 8}, saved=False)
    assert first["test_result"] == again["test_result"]
    assert first["history"][-1]["train_loss"] == again["history"][-1]["train_loss"]
    assert first["history"][-1]["train_loss"] != other["history"][-1]["train_loss"]


def training_view(root, scratch):
    """Everything that training can see: artifacts, packed rows of several epochs, prompts."""
    _, data, model = build(cycle_config(root, scratch))
    dataset = data.train._dataset
    rows = []
    for epoch in range(3):
        dataset.resample(epoch)
        rows.append({name: value.clone() for name, value in dataset.inter_feat.interaction.items()})
    return model.prepared, rows


def test_permuting_the_held_out_items_changes_nothing_that_training_sees(tmp_path):
    write_cycle(tmp_path / "a" / "cycle")

    def swap(user, step, item):  # another user's item of the same step, for validation and test only
        return f"i{(user + 1) % 4}_{(user + step) % 6}" if step >= 14 else item

    write_cycle(tmp_path / "b" / "cycle", change=swap)
    before, rows_before = training_view(tmp_path / "a", tmp_path / "sa")
    after, rows_after = training_view(tmp_path / "b", tmp_path / "sb")
    for name, tensor in before.tensors().items():
        assert torch.equal(tensor, after.tensors()[name]), name
    assert before.header() == after.header()
    for one, other in zip(rows_before, rows_after):
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_leak_test_can_fail(tmp_path):
    """The same comparison notices a change of one training event."""
    write_cycle(tmp_path / "a" / "cycle")
    write_cycle(tmp_path / "b" / "cycle", change=lambda u, s, i: "i1_0" if (u, s) == (0, 3) else i)
    before, rows_before = training_view(tmp_path / "a", tmp_path / "sa")
    after, rows_after = training_view(tmp_path / "b", tmp_path / "sb")
    assert not torch.equal(before.vectors.collaborative, after.vectors.collaborative)
    assert any(
        not torch.equal(one["item_id_list"], other["item_id_list"])
        for one, other in zip(rows_before, rows_after)
    )


def test_prepared_items_survive_a_round_trip(cycle_settings):
    _, _, model = build(cycle_settings)
    prepared = model.prepared
    back = Prepared.restore(prepared.tensors(), json.loads(json.dumps(prepared.header())))
    assert json.dumps(back.header(), sort_keys=True) == json.dumps(prepared.header(), sort_keys=True)
    assert all(torch.equal(value, back.tensors()[name]) for name, value in prepared.tensors().items())


def test_artifacts_are_reused_and_damage_is_refused(cycle_settings, tmp_path):
    build(cycle_settings)
    (file,) = (tmp_path / "artifacts").glob("items-*.safetensors")
    stamp = file.stat().st_mtime_ns
    build(cycle_settings)
    assert file.stat().st_mtime_ns == stamp
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(UserError, match="damaged.*delete"):
        build(cycle_settings)


def test_a_checkpoint_carries_its_preparation_and_refuses_another_catalogue(
    cycle_settings, cycle_root, tmp_path
):
    result = run("SIGMA", "cycle", config_dict={**cycle_settings, "epochs": 1})
    moved = tmp_path / "elsewhere"
    _, model, _, _, _, test = load_data_and_model(result["checkpoint"], {"artifact_dir": str(moved)})
    assert not moved.exists()
    batch = one_batch(test)
    again = load_data_and_model(result["checkpoint"])[1]
    assert torch.equal(model.rank(batch, 5).items, again.rank(batch, 5).items)
    other = tmp_path / "other"
    write_cycle(other / "cycle")
    for file in (other / "cycle").iterdir():
        file.write_text(file.read_text().replace("i0_0", "new"))
    with pytest.raises(UserError, match="another item catalogue"):
        load_data_and_model(result["checkpoint"], {"data_path": str(other)})


def test_a_checkpoint_of_the_first_form_is_refused_with_the_way_out():
    old = {"model": "SIGMA", "dataset": "cycle", "sigma_objective": "global", "sigma_slot": "sum"}
    with pytest.raises(UserError, match="train it anew with python .* --model=SIGMA --dataset=cycle"):
        rebuild_config(old)


def test_ablations_by_one_key_train(cycle_settings):
    for change in (
        {"grounding_align": False},
        {"grounding_kd_weight": 0.0},
        {"grounding_views": ["taxonomy"]},
        {"fusion_inputs": ["id"]},
        {"fusion_inputs": ["text"], "fusion_id_residual": False},
        {"fusion_hidden": 8},
        {"tokenizer_prefix_length": 0},
        {"sigma_history": "long"},
        {"sigma_paths": ["interest"]},
        {"sigma_soft_targets": 0.15, "sigma_rdrop": 0.0},
        {"sigma_mask_seen": False, "filter_seen": True},
        {"task_labels_per_row": 0},
        {"decode_beam": 3, "topk": [1], "valid_metric": "NDCG@1"},
        PAPER,
        {**PAPER, "sigma_id_weight": 0.0},
        {**PAPER, "sigma_mask_seen": True, "filter_seen": True},
    ):
        result = run("SIGMA", "cycle", config_dict={**cycle_settings, "epochs": 1, **change}, saved=False)
        assert np.isfinite(result["best_valid_score"]), change


@pytest.mark.parametrize(
    "change, message",
    [
        ({"text_fields": None}, "text_fields"),
        ({"text_fields": ["titel"]}, "titel"),
        ({"category_field": "timestamp"}, "timestamp"),
        ({"profile_fields": ["height"]}, "height"),
        ({"grounding_views": ["visual"]}, "grounding_views"),
        ({"sigma_history": "middle"}, "sigma_history"),
        ({"sigma_paths": ["shortcut"]}, "sigma_paths"),
        ({"tokenizer_prefix_length": "some"}, "tokenizer_prefix_length"),
        ({"tokenizer_vectors": ["image"]}, "tokenizer_vectors"),
    ],
)
def test_bad_settings_get_one_sentence_before_training(cycle_settings, change, message):
    with pytest.raises(UserError, match=message):
        build(cycle_settings, **change)


@pytest.mark.parametrize("fused", [True, False])
def test_lists_follow_the_weights(cycle_settings, fused):
    """The catalogue is kept between lists; no step and no loaded or edited weights may leave it behind."""
    _, data, model = build(cycle_settings)
    batch, train = one_batch(data.test), next(iter(data.train))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)

    def fresh():
        model._table = None
        return model.score_all(batch)

    first = model.eval().score_all(batch)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sum(model.calculate_loss(train)).backward()
    optimizer.step()
    stepped = model.score_all(batch)
    assert not torch.allclose(stepped, first) and torch.equal(stepped, fresh())
    model.load_state_dict(before)
    assert torch.equal(model.score_all(batch), first)
    with torch.no_grad():
        next(iter(model.item_tokens.parameters())).add_(1.0)
    edited = model.score_all(batch)
    assert not torch.allclose(edited, first) and torch.equal(edited, fresh())


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", [0, 1, "all"])
def test_a_user_who_may_be_recommended_nothing_gets_an_empty_list(cycle_settings, objective, mode, length):
    """And the others theirs, as if that user were not in the batch."""
    changes = {"sigma_objective": objective, "decode_mode": mode, "tokenizer_prefix_length": length}
    _, data, model = build(cycle_settings, **changes)
    model.eval()
    batch = one_batch(data.test)[:3]
    everything = torch.arange(1, model.n_items)
    seen = (torch.ones_like(everything), everything)
    ranked, scores = model.rank(batch, 5, seen), model.score_all(batch, seen)
    assert not ranked.items[1].any() and torch.isneginf(ranked.scores[1]).all()
    assert torch.isneginf(scores[1]).all() and not torch.isnan(scores).any()
    plain = model.rank(batch, 5)
    same_list(
        *(RankedItems(found.items[[0, 2]], found.scores[[0, 2]]) for found in (ranked, plain)),
    )
