"""SIGMA as a whole: planted data, exact generation, reproducibility, no leak, hostile settings."""

import json

import numpy as np
import pytest
import torch

from recbole_sigma.decoding.beam import states_of
from recbole_sigma.decoding.top_k import top_k
from recbole_sigma.preparation.items import Prepared
from recbole_sigma.quick_start import build_model, load_data_and_model, run_sigma
from recbole_sigma.run.config import SigmaConfig
from recbole_sigma.run.loaders import load_data
from recbole_sigma.values import UserError
from tests.models.conftest import planted_config, write_planted


def build(settings, **changes):
    config = SigmaConfig("SIGMA", "planted", None, {**settings, **changes})
    data = load_data(config, config.model_class)
    torch.manual_seed(0)
    return config, data, build_model(config, config.model_class, data.train)


def one_batch(loader):
    return next(iter(loader))[0]


def test_planted_cycle_is_learned(planted_settings):
    result = run_sigma("SIGMA", "planted", config_dict=planted_settings)
    assert result["test_result"]["hit@1"] >= 0.95
    assert result["seconds"]["cpu"] < 60


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("mode", ["apf", "fixed_temp", "id_only", "top1_prefix"])
def test_probabilities_over_the_catalogue_sum_to_one(planted_settings, prefix, mode):
    _, data, model = build(planted_settings, tokenizer_prefix_length=prefix, decode_mode=mode)
    model.eval()
    batch = one_batch(data.test)
    scores = model.full_sort_predict(batch)
    assert torch.isinf(scores[:, 0]).all()
    total = scores.double().exp().sum(1)
    if mode == "top1_prefix" and prefix:
        assert (scores > -torch.inf).sum(1).max() < model.n_items - 1
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["apf", "fixed_temp", "id_only", "top1_prefix"])
def test_list_equals_the_sorted_distribution(planted_settings, mode):
    _, data, model = build(planted_settings, decode_mode=mode)
    model.eval()
    batch = one_batch(data.test)
    ranked = model.rank(batch, 10)
    expected = top_k(model.full_sort_predict(batch), 10)
    assert torch.equal(ranked.items, expected.items)
    torch.testing.assert_close(ranked.scores, expected.scores)


@pytest.mark.parametrize("mode", ["apf", "fixed_temp", "id_only", "top1_prefix"])
def test_seen_items_leave_the_list_and_the_distribution(planted_settings, mode):
    _, data, model = build(planted_settings, decode_mode=mode)
    model.eval()
    batch = one_batch(data.test)
    seen = (torch.tensor([0, 0, 3, 3]), torch.tensor([1, 2, 5, 0]))
    ranked, free = model.rank(batch, model.n_items - 1, seen), model.rank(batch, model.n_items - 1)
    listed = [set(row.tolist()) - {0} for row in ranked.items]
    assert not listed[0] & {1, 2} and 5 not in listed[3]
    assert torch.equal(ranked.items[1], free.items[1])
    if mode != "top1_prefix":
        assert listed[0] == set(range(1, model.n_items)) - {1, 2}
    if mode not in ("top1_prefix", "id_only"):
        torch.testing.assert_close(ranked.scores.exp().sum(1), torch.ones(len(batch)), atol=1e-4, rtol=0)


def test_one_user_alone_gets_the_list_of_the_batch(planted_settings):
    _, data, model = build(planted_settings)
    model.eval()
    batch = one_batch(data.test)
    whole = model.rank(batch, 5)
    for row in (0, 7):
        alone = model.rank(batch[row : row + 1], 5)
        assert torch.equal(alone.items[0], whole.items[row])
        torch.testing.assert_close(alone.scores[0], whole.scores[row], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("length, interest", [(1, False), (1, True), (2, True), ("all", False)])
def test_cached_prefix_states_equal_a_full_pass(planted_settings, length, interest):
    """The item query of every prefix from the shared cache equals the one of a packed row that ends in that
    label.
    """
    _, data, model = build(planted_settings, tokenizer_prefix_length=length, sigma_interest=interest)
    model.eval()
    batch = one_batch(data.test)[:4]
    buckets, gate = model.prefixes.buckets, model.objective.prefix_gate
    with torch.no_grad():
        gate.normal_()
        model.instruction_gate.normal_()
        prompt, context, unit = model._prompt(batch)
        decoder, beams = model._search(prompt, context, unit, None, 0)
        fast = states_of(decoder, beams)
        items, length = batch["item_id_list"], batch["item_length"]
        assert beams.nodes.shape[1] == buckets.n_prefixes
        for node in range(buckets.n_prefixes):
            label = int(buckets.order[buckets.start[node]])
            rows = torch.cat([items, torch.zeros(4, 1, dtype=torch.int64)], dim=1)
            rows[torch.arange(4), length] = label
            after = (length - 1)[:, None]
            history, branches, start = model.trunk.packed(
                batch["user_id"],
                rows,
                length + 1,
                model.fusion(),
                after,
                model.instructions[:1].expand(4, 1, -1),
                torch.full((4, 1), label),
            )
            base, added, path = model._label_states(
                model._history_contexts(history, rows, unit), branches, after, start
            )
            torch.testing.assert_close(base + added, context, atol=1e-4, rtol=1e-4)
            place = (beams.nodes == node).int().argmax(1)
            torch.testing.assert_close(path[:, -1], fast[torch.arange(4), place], atol=1e-4, rtol=1e-4)


def brute_force(model, batch, seen):
    """log P(item) of every item by teacher forcing: chain rule over codes, then the item inside its
    prefix.
    """
    prefixes, objective, trunk = model.prefixes, model.objective, model.trunk
    trie, codes = prefixes.trie, prefixes.codes
    items, length = batch["item_id_list"], batch["item_length"]
    n = len(items)
    banned = [{int(i) for r, i in zip(*seen, strict=True) if r == b} for b in range(n)]
    out = torch.full((n, model.n_items), -torch.inf)
    _, context, unit = model._prompt(batch)
    pairs = (
        torch.tensor([b for b in range(n) for _ in banned[b]]),
        torch.tensor([i for b in banned for i in b]),
    )
    pooled = objective.priors(context, unit, pairs if len(pairs[0]) else None)
    for label in range(1, model.n_items):
        rows = torch.cat([items, torch.zeros(n, 1, dtype=torch.int64)], dim=1)
        rows[torch.arange(n), length] = label
        after = (length - 1)[:, None]
        text = model.instructions[:1].expand(n, 1, -1)
        history, branches, start = trunk.packed(
            batch["user_id"], rows, length + 1, model.fusion(), after, text, torch.full((n, 1), label)
        )
        *_, path = model._label_states(model._history_contexts(history, rows, unit), branches, after, start)
        for b in range(n):
            total = 0.0
            for level in range(prefixes.length):
                state = context[b] if not level else context[b] + objective.prefix_gate * path[b, level - 1]
                followers = sorted(
                    {
                        int(codes[i, level])
                        for i in range(1, model.n_items)
                        if torch.equal(codes[i, :level], codes[label, :level])
                    }
                )
                logits = []
                for code in followers:
                    node = trie.find([*codes[label, :level].tolist(), code])
                    head = trunk.output_rows(model.level_tokens[level])[code]
                    logits.append(float(state @ head) + float(pooled[level][b, node]))
                share = torch.tensor(logits).log_softmax(0)
                total += float(share[followers.index(int(codes[label, level]))])
            query = context[b] + objective.prefix_gate * path[b, -1]
            if objective.similarity.cosine:
                query = torch.nn.functional.normalize(query, dim=0)
            query = query * objective.similarity.log_scale[0].exp()
            mates = [i for i in range(1, model.n_items) if torch.equal(codes[i], codes[label])]
            mates = [i for i in mates if i not in banned[b]]
            if label in mates:
                inside = torch.stack([query @ unit[i] for i in mates])
                out[b, label] = total + float(inside.log_softmax(0)[mates.index(label)])
    for b in range(n):  # prefixes with nothing left give their mass to the others
        out[b] -= out[b].logsumexp(0)
    return out


@pytest.mark.parametrize("score", ["cosine", "dot"])
@pytest.mark.parametrize("pooling", [False, True])
@pytest.mark.parametrize("length", [1, 2, "all"])
def test_lists_of_any_prefix_length_equal_brute_force(planted_settings, length, pooling, score):
    _, data, model = build(
        planted_settings,
        tokenizer_prefix_length=length,
        decode_mode="fixed_temp",
        sigma_prefix_pooling=pooling,
        sigma_score=score,
        fusion_norm=score == "cosine",
    )
    model.eval()
    batch = one_batch(data.test)[:3]
    seen = (torch.tensor([0, 0, 0, 2]), torch.tensor([1, 2, 5, 7]))
    with torch.no_grad():
        model.objective.prefix_gate.normal_()
        model.instruction_gate.normal_()
        model.objective.similarity.log_scale.add_(0.5)
        expected = brute_force(model, batch, seen)
    got = model.score_all(batch, seen)
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=1e-4)
    ranked = model.rank(batch, 10, seen)
    torch.testing.assert_close(ranked.scores, top_k(expected, 10).scores, atol=2e-4, rtol=1e-4)
    assert torch.equal(ranked.items, top_k(got, 10, seen).items)


@pytest.mark.parametrize(
    "length, objective, slot",
    [
        (0, "paper", "tokens"),
        (2, "paper", "tokens"),
        ("all", "paper", "tokens"),
        (1, "global", "sum"),
        (2, "global", "tokens"),
        (3, "global", "sum"),
        (1, "paper dot", "tokens"),
        (1, "global dot", "sum"),
    ],
)
def test_every_prefix_length_learns_the_cycle(planted_settings, length, objective, slot):
    objective, *dot = objective.split()
    change = {"tokenizer_prefix_length": length, "sigma_objective": objective, "sigma_slot": slot}
    if dot:
        change.update(sigma_score="dot", fusion_norm=False)
    if length == "all":  # pure semantic IDs cannot tell colliding items of the history apart
        change["tokenizer_codebook_size"] = 12
    result = run_sigma("SIGMA", "planted", config_dict={**planted_settings, **change}, saved=False)
    assert result["test_result"]["hit@1"] >= (0.7 if length == "all" else 0.85)


@pytest.mark.parametrize("mode", ["apf", "fixed_temp", "top1_prefix", "id_only"])
@pytest.mark.parametrize("length", [0, 1, 2, "all"])
def test_global_distribution_is_one_softmax_read_in_three_steps(planted_settings, mode, length):
    change = {"sigma_objective": "global", "sigma_slot": "sum", "decode_mode": mode}
    _, data, model = build(planted_settings, tokenizer_prefix_length=length, **change)
    model.eval()
    batch = one_batch(data.test)
    seen = (torch.tensor([0, 0, 3]), torch.tensor([1, 2, 5]))
    scores = model.score_all(batch, seen).double()
    assert torch.isinf(scores[0, [0, 1, 2]]).all() and torch.isinf(scores[3, 5])
    torch.testing.assert_close(
        scores.exp().sum(1), torch.ones(len(batch), dtype=torch.float64), atol=1e-5, rtol=0
    )
    if mode in ("fixed_temp", "id_only") or not length:
        _, context, unit = model._prompt(batch)
        plain = model.objective.catalogue(context, unit, 1.0).double()
        plain[seen] = -torch.inf
        torch.testing.assert_close(scores, plain.log_softmax(1), atol=1e-5, rtol=1e-5)


def test_same_seed_same_metrics_other_seed_others(planted_settings, tmp_path):
    short = {**planted_settings, "epochs": 2, "learning_rate": 0.002}
    first = run_sigma("SIGMA", "planted", config_dict=short, saved=False)
    again = run_sigma(
        "SIGMA", "planted", config_dict={**short, "artifact_dir": str(tmp_path / "fresh")}, saved=False
    )
    other = run_sigma("SIGMA", "planted", config_dict={**short, "seed": 8}, saved=False)
    assert first["test_result"] == again["test_result"]
    assert first["history"][-1]["train_loss"] == again["history"][-1]["train_loss"]
    assert first["history"][-1]["train_loss"] != other["history"][-1]["train_loss"]


def training_view(root, scratch):
    """Everything that training can see: artifacts, packed rows of several epochs, prompts."""
    _, data, model = build(planted_config(root, scratch))
    dataset = data.train._dataset
    rows = []
    for epoch in range(3):
        dataset.resample(epoch)
        rows.append({name: value.clone() for name, value in dataset.inter_feat.interaction.items()})
    return model.prepared, rows


def test_permuting_the_held_out_items_changes_nothing_that_training_sees(tmp_path):
    write_planted(tmp_path / "a" / "planted")

    def swap(user, step, item):  # another user's item of the same step, for validation and test only
        return f"i{(user + 1) % 4}_{(user + step) % 6}" if step >= 14 else item

    write_planted(tmp_path / "b" / "planted", change=swap)
    before, rows_before = training_view(tmp_path / "a", tmp_path / "sa")
    after, rows_after = training_view(tmp_path / "b", tmp_path / "sb")
    for name, tensor in before.tensors().items():
        assert torch.equal(tensor, after.tensors()[name]), name
    assert before.header() == after.header()
    for one, other in zip(rows_before, rows_after):
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_leak_test_can_fail(tmp_path):
    """The same comparison notices a change of one training event."""
    write_planted(tmp_path / "a" / "planted")
    write_planted(tmp_path / "b" / "planted", change=lambda u, s, i: "i1_0" if (u, s) == (0, 3) else i)
    before, rows_before = training_view(tmp_path / "a", tmp_path / "sa")
    after, rows_after = training_view(tmp_path / "b", tmp_path / "sb")
    assert not torch.equal(before.vectors.collaborative, after.vectors.collaborative)
    assert any(
        not torch.equal(one["item_id_list"], other["item_id_list"])
        for one, other in zip(rows_before, rows_after)
    )


def test_prepared_items_survive_a_round_trip(planted_settings):
    _, _, model = build(planted_settings)
    prepared = model.prepared
    back = Prepared.restore(prepared.tensors(), json.loads(json.dumps(prepared.header())))
    assert json.dumps(back.header(), sort_keys=True) == json.dumps(prepared.header(), sort_keys=True)
    assert all(torch.equal(value, back.tensors()[name]) for name, value in prepared.tensors().items())


def test_artifacts_are_reused_and_damage_is_refused(planted_settings, tmp_path):
    build(planted_settings)
    (file,) = (tmp_path / "artifacts").glob("items-*.safetensors")
    stamp = file.stat().st_mtime_ns
    build(planted_settings)
    assert file.stat().st_mtime_ns == stamp
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(UserError, match="damaged.*delete"):
        build(planted_settings)
    file.write_bytes(bytes(content[: len(content) // 2]))
    with pytest.raises(UserError, match="cannot be read.*delete"):
        build(planted_settings)


def test_a_checkpoint_carries_its_preparation_and_refuses_another_catalogue(
    planted_settings, planted_root, tmp_path
):
    result = run_sigma("SIGMA", "planted", config_dict={**planted_settings, "epochs": 1})
    moved = tmp_path / "elsewhere"
    _, model, _, _, _, test = load_data_and_model(result["checkpoint"], {"artifact_dir": str(moved)})
    assert not moved.exists()
    batch = one_batch(test)
    again = load_data_and_model(result["checkpoint"])[1]
    assert torch.equal(model.rank(batch, 5).items, again.rank(batch, 5).items)
    other = tmp_path / "other"
    write_planted(other / "planted")
    for file in (other / "planted").iterdir():
        file.write_text(file.read_text().replace("i0_0", "new"))
    with pytest.raises(UserError, match="another item catalogue"):
        load_data_and_model(result["checkpoint"], {"data_path": str(other)})


def test_ablations_by_one_key_train(planted_settings):
    for change in (
        {"grounding_align": False},
        {"grounding_kd_weight": 0.0},
        {"grounding_views": ["taxonomy"]},
        {"fusion_inputs": ["id"]},
        {"fusion_inputs": ["text"], "fusion_id_residual": False},
        {"fusion_hidden": 0},
        {"tokenizer_prefix_length": 0},
        {"sigma_catalogue_weight": 0.0},
        {"sigma_id_weight": 0.0},
        {"sigma_negatives": 1},
        {"sigma_recency": 0},
        {"sigma_interest": True},
        {"sigma_interest": True, "sigma_objective": "global", "sigma_slot": "sum", "sigma_score": "dot"},
        {"sigma_negatives_from": "catalogue"},
        {"sigma_objective": "global", "sigma_slot": "sum"},
        {"sigma_objective": "global", "sigma_slot": "sum", "sigma_conditioned": False},
        {"sigma_prefix_pooling": False},
        {"sigma_prefix_pooling": False, "sigma_catalogue_weight": 0.0},
        {"sigma_mask_seen": False, "filter_seen": True},
        {"task_labels_per_row": 0},
        {"decode_beam": 3, "topk": [1], "valid_metric": "NDCG@1"},
    ):
        result = run_sigma(
            "SIGMA", "planted", config_dict={**planted_settings, "epochs": 1, **change}, saved=False
        )
        assert np.isfinite(result["best_valid_score"]), change


@pytest.mark.parametrize(
    "change, message",
    [
        ({"text_fields": None}, "text_fields"),
        ({"text_fields": ["titel"]}, "titel"),
        ({"category_field": "timestamp"}, "timestamp"),
        ({"profile_fields": ["height"]}, "height"),
        ({"backbone": "scratch:gigantic"}, "scratch:tiny"),
        ({"decode_mode": "best"}, "decode_mode"),
        ({"decode_space": "log"}, "decode_space"),
        ({"grounding_views": ["visual"]}, "grounding_views"),
        ({"grounding_text_encoder": "bert"}, "grounding_text_encoder"),
        ({"sigma_slot": "sum"}, "sigma_slot"),
        ({"tokenizer_prefix_length": "some"}, "tokenizer_prefix_length"),
        ({"tokenizer_prefix_length": 9}, "tokenizer_prefix_length"),
        ({"tokenizer_codebook_size": 5000}, "tokenizer_codebook_size"),
        ({"tokenizer_vectors": ["image"]}, "tokenizer_vectors"),
        ({"fusion_inputs": ["image"]}, "fusion_inputs"),
    ],
)
def test_bad_settings_get_one_sentence_before_training(planted_settings, change, message):
    with pytest.raises(UserError, match=message):
        build(planted_settings, **change)


def test_faiss_inside_prefixes_is_an_option(planted_settings):
    """Above every size it changes nothing; below, the lists stay valid and close to the exact ones."""
    settings = {**planted_settings, "tokenizer_codebook_size": 2, "tokenizer_levels": 1}
    _, data, exact = build(settings)
    batch = one_batch(data.test)
    expected = exact.eval().rank(batch, 5)
    for above, share in ((1000, 1.0), (4, 0.9)):
        model = build(settings, decode_faiss_above=above)[2]
        model.load_state_dict(exact.state_dict())
        got = model.eval().rank(batch, 5)
        assert (got.items > 0).all()
        assert all(len(set(row.tolist())) == 5 for row in got.items)
        same = (got.items[:, :, None] == expected.items[:, None, :]).any(2).float().mean()
        assert same >= share
