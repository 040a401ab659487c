"""TIGER as a whole: planted data, exact lists, training rows, codes from files, reload, hostile settings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_sigma.data.windows import PrefixPacker
from recbole_sigma.decoding.exact import score_items
from recbole_sigma.evaluation.judge import Judge
from recbole_sigma.models import packed
from recbole_sigma.quick_start import evaluate_checkpoint, run
from recbole_sigma.run.config import RunConfig
from recbole_sigma.settings.reading import load_yaml
from recbole_sigma.settings.recipes import properties_dir, shipped_defaults
from recbole_sigma.tokenization.published_ids import write_codes
from recbole_sigma.values import UserError
from tests import planted as scenes
from tests.arithmetic import SCORES
from tests.planted import one_batch, tiny

SMALL = tiny(
    "TIGER", tiger_dropout=0.0, tokenizer_levels=2, tokenizer_vectors=["text", "collaborative"],
    tiger_samples="all", epochs=6, eval_step=6, train_batch_size=64, decode_beam=12,
    rqvae_epochs=20, rqvae_hidden=[32], rqvae_latent=8,
)  # fmt: skip
SIGMA_ONLY = (
    "backbone_dropout",
    "fusion_hide_id",
    "grounding_steps",
    "grounding_batch_pairs",
    "tokenizer_bpe_size",
)


@pytest.fixture
def tiger_settings(cycle_settings):
    kept = {key: value for key, value in cycle_settings.items() if key not in SIGMA_ONLY}
    return {**kept, **SMALL}


def build(settings, **changes):
    config, data, model = scenes.build("TIGER", "cycle", settings, **changes)
    return config, data, model.eval()


@pytest.mark.slow
def test_planted_cycle_is_learned(tiger_settings):
    result = run("TIGER", "cycle", config_dict={**tiger_settings, "epochs": 30, "eval_step": 30})
    assert result["test_result"]["hit@1"] >= 0.9


def test_lists_equal_teacher_forced_scores_of_every_item(tiger_settings):
    _, data, model = build(tiger_settings, decode_beam=24)
    batch = one_batch(data.test)[:6]
    seen = (torch.tensor([0, 0, 1]), torch.tensor([3, 4, 5]))
    ranked = model.rank(batch, 24, seen)
    truth = score_items(model._decoder(batch), model._catalogue(), model._level_tokens())
    truth[seen] = -torch.inf
    value, item = truth.sort(dim=1, descending=True, stable=True)
    real = value[:, :24] > -torch.inf
    assert torch.equal(ranked.items > 0, real)
    assert torch.allclose(ranked.scores[real], value[:, :24][real], **SCORES)
    assert ranked.short.tolist() == [2, 1, 0, 0, 0, 0]
    clear = real & ((value[:, :24] - value[:, 1:25]).abs() > 1e-3)
    clear[:, 1:] &= clear[:, :-1]
    assert torch.equal(ranked.items[clear], item[:, :24][clear])


def test_predict_is_the_score_of_the_target(tiger_settings):
    _, data, model = build(tiger_settings, tiger_user_tokens=7)
    batch = one_batch(data.test)[:6]
    truth = score_items(model._decoder(batch), model._catalogue(), model._level_tokens())
    with torch.no_grad():
        got = model.predict(batch)
    assert torch.allclose(got, truth.gather(1, batch[model.ITEM_ID][:, None])[:, 0], **SCORES)
    dense = model.full_sort_predict(batch)
    assert dense.shape == (6, model.n_items)
    assert bool((dense[:, 0] == -torch.inf).all())
    assert int((dense > -torch.inf).sum()) == 6 * 12
    listed = dense > -torch.inf
    assert torch.allclose(dense[listed], truth[listed], **SCORES)


def test_scores_of_given_candidates_are_those_of_the_lists(tiger_settings):
    _, data, model = build(tiger_settings, decode_beam=24)
    batch = one_batch(data.test)[:6]
    dense = model.full_sort_predict(batch)
    generator = torch.Generator().manual_seed(0)
    items = torch.randint(0, model.n_items, (6, 70), generator=generator)  # more than one chunk, with repeats
    items[:, 3] = 0
    got = model.score_candidates(batch, items)
    assert got.shape == (6, 70) and bool((got[:, 3] == -torch.inf).all())
    real = items > 0
    assert torch.allclose(got[real], dense.gather(1, items)[real], **SCORES)
    assert bool((got[~real] == -torch.inf).all())
    got += 1.0  # an ordinary tensor: callers may write to it


@pytest.mark.parametrize("users", [0, 7])
@pytest.mark.parametrize("grouped", [True, False])
def test_loss_and_gradients_are_those_of_transformers(tiger_settings, monkeypatch, users, grouped):
    """However rows share passes: packed tokens give what padded rows give."""
    _, data, model = build(tiger_settings, tiger_user_tokens=users)
    model.eval()
    batch = next(iter(data.train))
    assert len(model.passes(batch).groups) > 1  # rows of several length classes
    if not grouped:
        monkeypatch.setattr(packed, "length_groups", lambda length, device: [torch.arange(len(length))])
    loss = model.calculate_loss(batch)
    loss.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    ids, mask = model._prompt(batch)
    plain = model.t5(input_ids=ids, attention_mask=mask, labels=model.item_tokens[batch[model.ITEM_ID]]).loss
    plain.backward()
    torch.testing.assert_close(loss, plain, atol=1e-5, rtol=0)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(gradients[name], weight.grad, atol=1e-5, rtol=1e-3, msg=name)


def test_user_tokens_stay_in_their_range_and_differ(tiger_settings):
    _, data, model = build(tiger_settings, tiger_user_tokens=50)
    batch = one_batch(data.test)
    ids, mask = model._prompt(batch)
    first = ids[:, 0]
    assert int(first.min()) >= 1 and int(first.max()) <= 50
    assert len(set(first.tolist())) > 20
    assert bool((ids[:, 1:][mask[:, 1:].bool()] > 50).all())


def test_exact_search_judges_the_beam(tiger_settings):
    _, data, model = build(tiger_settings, decode_beam=5, topk=[5], valid_metric="NDCG@5")
    survival = model.prefix_survival(one_batch(data.test)[:8], 5)
    assert survival.shape == (8,) and bool((survival >= 0).all()) and bool((survival <= 1).all())
    _, data, model = build(tiger_settings, decode_beam=24)
    assert model.prefix_survival(one_batch(data.test)[:8], 5).tolist() == [1.0] * 8


def test_prefix_survival_is_a_metric(tiger_settings):
    asked = {"metrics": ["NDCG", "prefix_survival"], "topk": [5], "valid_metric": "NDCG@5", "decode_beam": 5}
    config, data, model = build(
        tiger_settings, **asked, filter_seen=False, prefix_survival_users=0, eval_batch_size=7
    )
    metrics = Judge(config).judge(model, data.test).metrics
    shares = [model.prefix_survival(batch[0], 5) for batch in data.test]
    assert metrics["prefix_survival@5"] == pytest.approx(float(torch.cat(shares).mean()), abs=1e-6)


@pytest.mark.parametrize("quantizer", ["rq-kmeans", "rq-kmeans-balanced", "rq-vae"])
def test_codes_are_unique_and_cached(tiger_settings, quantizer, tmp_path):
    config, data, model = build(tiger_settings, tokenizer_quantizer=quantizer)
    codes = model.codes.codes
    assert codes.shape == (25, 3) and not codes[0].any()
    assert len(torch.unique(codes[1:], dim=0)) == 24
    files = list((tmp_path / "artifacts").glob("tiger-codes-*.safetensors"))
    assert len(files) == 1
    again = build(tiger_settings, tokenizer_quantizer=quantizer)[2]
    assert torch.equal(again.codes.codes, codes)
    assert list((tmp_path / "artifacts").glob("tiger-codes-*.safetensors")) == files
    build(tiger_settings, tokenizer_quantizer=quantizer, seed=8)
    assert len(list((tmp_path / "artifacts").glob("tiger-codes-*.safetensors"))) == 2


def test_codes_can_come_from_a_file(tiger_settings, tmp_path):
    _, data, model = build(tiger_settings)
    tokens = [str(t) for t in data.dataset.field2id_token["item_id"]]
    codes = torch.stack([torch.arange(25) % 5, torch.arange(25) // 5 % 3], dim=1)
    codes[0] = 0
    write_codes(tmp_path / "codes.json", codes, tokens, "cycle")
    imported = build(tiger_settings, tokenizer_quantizer=f"file:{tmp_path / 'codes.json'}")[2].codes
    assert torch.equal(imported.codes[:, :2], codes)
    assert imported.codes.shape[1] == 3  # they collide, so a digit is appended
    write_codes(tmp_path / "other.json", codes[:20], tokens[:20], "another")
    with pytest.raises(UserError, match="codes of dataset 'another' with 19 items, not of these 24"):
        build(tiger_settings, tokenizer_quantizer=f"file:{tmp_path / 'other.json'}")
    unique = torch.stack([torch.arange(25) % 5, torch.arange(25) // 5], dim=1)
    write_codes(tmp_path / "unique.json", unique, tokens, "cycle")
    imported = build(tiger_settings, tokenizer_quantizer=f"file:{tmp_path / 'unique.json'}")[2].codes
    assert imported.codes.shape[1] == 2  # unique as they are


def test_a_reloaded_checkpoint_gives_the_same_lists(tiger_settings, tmp_path):
    result = run("TIGER", "cycle", config_dict={**tiger_settings, "epochs": 2, "eval_step": 1})
    for file in (tmp_path / "artifacts").glob("*"):
        file.unlink()  # the codes must come from the checkpoint
    again = evaluate_checkpoint(result["checkpoint"])
    assert dict(again.metrics) == result["test_result"]
    assert np.array_equal(again.places, result["test"].places)
    assert not list((tmp_path / "artifacts").glob("*"))


def test_same_seed_same_bits(tiger_settings):
    results = [
        run("TIGER", "cycle", config_dict={**tiger_settings, "epochs": 2, "eval_step": 1}) for _ in range(2)
    ]
    assert results[0]["history"][1]["train_loss"] == results[1]["history"][1]["train_loss"]
    assert np.array_equal(results[0]["test"].places, results[1]["test"].places)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tiger_samples": "some"}, "tiger_samples must be one of one, all; not 'some'"),
        (
            {"tokenizer_quantizer": "opq"},
            "tokenizer_quantizer must be one of rq-kmeans, rq-kmeans-balanced, rq-vae, file:<path>; not",
        ),
        ({"tokenizer_quantizer": "file:nowhere.json"}, "nowhere.json, which does not exist"),
        ({"tokenizer_vectors": ["picture"]}, "tokenizer_vectors must be a list of text,"),
        ({"tokenizer_vectors": ["image"]}, "TIGER reads no image vectors"),
        ({"tokenizer_vectors": []}, "names no vectors"),
        ({"tokenizer_codebook_size": 500}, "codebook of 500 needs at least as many items"),
        ({"decode_beam": 4}, "decode_beam 4 is smaller than the longest list, topk 10"),
        ({"text_fields": None}, "names no text_fields"),
    ],
)
def test_hostile_settings_are_refused_with_a_sentence(tiger_settings, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        build(tiger_settings, **changes)


def test_prefix_rows_are_every_prefix_or_one_per_user():
    users = np.array([1, 1, 1, 1, 2, 3, 3])
    items = np.arange(7)
    every = PrefixPacker(users, items, items, window=2, seed=0, every=True)
    assert every.draw(0).tolist() == [[0, 1], [0, 2], [1, 3], [5, 6]]
    assert len(every) == 4
    one = PrefixPacker(users, items, items, window=2, seed=0, every=False)
    draws = [one.draw(epoch).tolist() for epoch in range(40)]
    assert len(one) == 2 and all(len(rows) == 2 for rows in draws)
    assert {tuple(rows[0]) for rows in draws} == {(0, 1), (0, 2), (1, 3)}
    assert {tuple(rows[1]) for rows in draws} == {(5, 6)}
    assert one.draw(3).tolist() == draws[3]


@pytest.mark.parametrize("name", ["tiger_paper", "tiger_mender"])
def test_recipes_name_known_keys_only_and_resolve(name, tiger_settings):
    path = properties_dir() / "recipes" / f"{name}.yaml"
    own = {
        key: tiger_settings[key] for key in ("data_path", "load_col", "text_fields", "topk", "valid_metric")
    }
    config = RunConfig("TIGER", "cycle", [str(path)], own)
    declared = shipped_defaults(("TIGER",)).keys()
    assert load_yaml(path).keys() <= declared
    assert config["tiger_heads"] * config["tiger_d_kv"] == 384
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            assert "  # " in line, f"{path.name}: every value needs its source: {line}"
