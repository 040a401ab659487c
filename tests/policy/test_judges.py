"""Judges: planted tastes are found again, a level is what it says, answers are kept, foreign files
refused.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recbole_sigma.policy import click_judge, lm_judge
from recbole_sigma.policy.aggregator import fit, pair_accuracy
from recbole_sigma.policy.aspects import LEVELS, Levels, newest, raw_aspects, train_pairs
from recbole_sigma.policy.judge import text_vectors
from recbole_sigma.policy.judges import build_judge
from recbole_sigma.policy.lm_judge import LanguageJudge
from recbole_sigma.policy.score_file import FileJudge
from recbole_sigma.values import UserError
from tests.language_models import save_model
from tests.planted import build, chain_config, tiny, write_chain


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """(config, train dataset, text vectors) of the chain."""
    root = tmp_path_factory.mktemp("data")
    write_chain(root / "chain")
    values = tiny("SIGMA", **{**chain_config(root), "artifact_dir": str(root / "items"), "topk": [5, 10]})
    config, data, _ = build("SIGMA", "chain", values, grounding_text_dim=32)
    return config, data.train._dataset, text_vectors(data.train._dataset, config)


# --- aggregation ---


def test_planted_weights_are_recovered() -> None:
    """Two groups of users weigh only aspect 0 or only aspect 1; aspect 2 is noise to both."""
    draw = torch.Generator().manual_seed(0)
    group = torch.randint(2, (3000,), generator=draw)
    features = torch.randn(3000, 6, generator=draw)
    features[:, 0] = group * 2.0 - 1.0
    levels = torch.randint(5, (3000, 2, 3), generator=draw) / 2.0 - 1.0
    own = levels.gather(2, group[:, None, None].expand(-1, 2, 1))[:, :, 0]
    kept = own[:, 0] != own[:, 1]
    first = (own[:, 0] > own[:, 1])[kept, None]
    features, levels, group = features[kept], levels[kept], group[kept]
    better = torch.where(first, levels[:, 0], levels[:, 1])
    worse = torch.where(first, levels[:, 1], levels[:, 0])
    half = len(group) // 2
    model = fit(features[:half], better[:half], worse[:half], seed=1)
    assert pair_accuracy(model, features[half:], better[half:], worse[half:]) >= 0.95
    weights = model(features[half:])
    assert float(weights.gather(1, group[half:, None]).mean()) >= 0.8
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(weights)))
    assert (weights >= 0).all()


def test_learning_leaves_the_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fit(torch.rand(64, 4), torch.rand(64, 3), torch.rand(64, 3), seed=0)
    torch.manual_seed(5)
    torch.rand(64, 4), torch.rand(64, 3), torch.rand(64, 3)
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    fit(torch.rand(64, 4), torch.rand(64, 3), torch.rand(64, 3), seed=9)
    assert torch.equal(torch.get_rng_state(), after)


def test_preference_is_told_from_popularity() -> None:
    """People like topic 0, items of topic 1 are shown more often; clicks alone would take that for liking."""
    draw = torch.Generator().manual_seed(0)
    product = torch.nn.functional.normalize(torch.randn(8000, 8, generator=draw), dim=1) / 8**0.5
    shown = torch.bernoulli(torch.sigmoid(20 * product[:, 1]), generator=draw)
    liked = torch.sigmoid(40 * product[:, 0])
    click = torch.bernoulli(liked * (0.1 + 0.85 * shown), generator=draw)

    def says(model: torch.nn.Module, topic: int) -> float:
        return float(torch.corrcoef(torch.stack([model(product), product[:, topic]]))[0, 1])

    preference, _ = click_judge.learn(product, shown[:, None], click, seed=0)
    clicks_alone, _ = click_judge.learn(product, torch.zeros(8000, 1), click, seed=0)
    assert says(preference, 0) > 0.9 and abs(says(preference, 1)) < 0.15 < 0.3 < says(clicks_alone, 1)


# --- aspects ---


def test_aspects_of_known_vectors() -> None:
    vectors = torch.nn.functional.normalize(
        torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.0]]), dim=1
    )
    # items 1, 1, 2 in order of time; then item 2 alone
    histories = torch.tensor([0, 0, 0, 1]), torch.tensor([1, 1, 2, 2])
    raw = raw_aspects(vectors, histories, torch.tensor([[3, 4], [2, 1]]))
    half = 0.5**0.5
    mean = torch.nn.functional.normalize(torch.tensor([2.0, 1.0]), dim=0)
    torch.testing.assert_close(raw[0, 0], torch.tensor([float(mean.sum()) * half, 1.0, 1.0 - half]))
    torch.testing.assert_close(raw[0, 1], torch.tensor([-float(mean[0]), -half, 1.0]))
    torch.testing.assert_close(raw[1], torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))


def test_levels_have_equal_shares_of_the_pairs_they_were_cut_from(chain) -> None:
    raw = torch.rand(1000, 2, 3, generator=torch.Generator().manual_seed(0))
    found = Levels.of(raw)(raw)
    for aspect, levels in enumerate(LEVELS):
        values, counts = torch.unique(found[..., aspect], return_counts=True)
        assert values.tolist() == list(levels)
        assert int(counts.max() - counts.min()) <= 2


def test_newest_come_first() -> None:
    table = newest((torch.tensor([0, 0, 0, 2]), torch.tensor([5, 6, 7, 8])), 3, 2)
    assert table.tolist() == [[7, 6], [0, 0], [8, 0]]


def test_pairs_prefer_the_true_next_item_over_one_nearby_that_was_not_met(chain) -> None:
    config, train, vectors = chain
    pairs = train_pairs(train, vectors, seed=3)
    assert len(pairs.users) > 60
    row, item = pairs.histories
    events = train.train_events()
    for number in range(0, len(pairs.users), 37):
        user, (true, other) = int(pairs.users[number]), pairs.items[number].tolist()
        own = events.items[events.users == user].tolist()
        met = item[row == number].tolist()
        assert own[len(met)] == true and own[: len(met)] == met  # the event behind this prefix
        assert other not in met and other != true and other > 0
    assert torch.equal(pairs.items, train_pairs(train, vectors, seed=3).items)


@pytest.mark.parametrize("name", ["cosine", "heuristic", "uniform", "clicks"])
def test_judges_of_text_score_their_own_group_of_the_chain_higher(name, chain) -> None:
    """Titles name the group, and every user walks inside one."""
    config, train, _ = chain
    judge = build_judge(name, train, config)
    tokens = train.field2id_token[train.iid_field]
    group = {number: str(token)[1] for number, token in enumerate(tokens) if number}
    events = train.train_events()
    users = torch.unique(events.users)[:20]
    row, item = train.chronology.before(users, torch.full_like(users, 10**6))
    groups = [group[int(item[row == number][0])] for number in range(len(users))]
    inside = torch.tensor([next(i for i in group if group[i] == own and i % 5 == 0) for own in groups])
    outside = torch.tensor([next(i for i in group if group[i] != own and i % 5 == 0) for own in groups])
    items = torch.stack([inside, outside], dim=1)
    scores = judge.score(users, (row, item), items, torch.zeros(items.shape))
    assert scores.shape == items.shape and float((scores[:, 0] > scores[:, 1]).float().mean()) > 0.7


def test_a_dataset_without_text_has_no_such_judge(chain) -> None:
    config, train, _ = chain
    values = {"text_fields": [], "seed": 1}
    with pytest.raises(UserError, match="policy_judge: this judge reads item text"):
        build_judge("cosine", train, values)
    assert build_judge("random", train, values).score(
        torch.tensor([1]), (torch.tensor([0]), torch.tensor([1])), torch.tensor([[1, 2]]), torch.zeros(1, 2)
    ).shape == (1, 2)


# --- a language model ---


def test_a_language_model_answers_once_per_question(chain, tmp_path, monkeypatch) -> None:
    config, train, vectors = chain
    monkeypatch.setattr(lm_judge, "PAIRS", 8)
    folder = save_model(tmp_path / "lm", "qwen3", max_position_embeddings=512)
    config["artifact_dir"] = str(tmp_path / "artifacts")
    judge = LanguageJudge(folder, train, config, vectors, seed=0)
    users = torch.tensor([1, 2])
    histories = train.chronology.before(users, torch.tensor([10**6, 10**6]))
    items = torch.tensor([[3, 4, 5], [6, 7, 8]])
    first = judge.score(users, histories, items, torch.zeros(2, 3))
    levels = judge.levels(histories, items)
    for aspect, known in enumerate(LEVELS):
        assert set(levels[..., aspect].flatten().tolist()) <= set(known)
    judge.finish()
    again = LanguageJudge(folder, train, config, vectors, seed=0)
    monkeypatch.setattr(again, "_logits", lambda prompts: pytest.fail("every answer is on disk"))
    assert torch.equal(again.score(users, histories, items, torch.zeros(2, 3)), first)
    other = LanguageJudge(
        save_model(tmp_path / "other", "qwen3", seed=3, max_position_embeddings=512),
        train,
        config,
        vectors,
        0,
    )
    assert other.key != judge.key  # another model's answers are not taken


def test_a_batch_of_prompts_is_read_as_each_alone(chain, tmp_path, monkeypatch) -> None:
    config, train, vectors = chain
    monkeypatch.setattr(lm_judge, "PAIRS", 8)
    config["artifact_dir"] = str(tmp_path / "artifacts")
    judge = LanguageJudge(save_model(tmp_path / "lm", "llama"), train, config, vectors, seed=0)
    prompts = ["short", "a longer prompt than the first", "red thing number 1"]
    alone = torch.cat([judge._logits([prompt]) for prompt in prompts])
    torch.testing.assert_close(judge._logits(prompts), alone, atol=1e-5, rtol=1e-5)


def test_a_folder_that_holds_no_model_is_named(chain, tmp_path) -> None:
    config, train, _ = chain
    with pytest.raises(UserError, match=r"policy_judge: lm:nowhere is no folder"):
        build_judge("lm:nowhere", train, config)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="policy_judge"):
        build_judge(f"lm:{tmp_path / 'empty'}", train, config)


# --- a file of scores ---

HEAD = "user_id\titem_id\tscore\n"


def test_scores_of_a_file_are_taken_and_missing_ones_have_no_say(chain, tmp_path) -> None:
    _, train, _ = chain
    path = tmp_path / "scores.tsv"
    path.write_text("user_id:token\titem_id:token\tscore:float\nu0\tg0i3\t2\nu0\tg1i3\t-1\n")
    judge = FileJudge(str(path), train)
    items = torch.tensor([[train.token2id("item_id", name) for name in ("g0i3", "g2i2", "g1i3")]])
    user = torch.tensor([train.token2id("user_id", "u0")])
    none = (torch.tensor([], dtype=torch.int64),) * 2
    assert judge.score(user, none, items, torch.zeros(1, 3)).tolist() == [[2.0, 0.5, -1.0]]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (HEAD + "u0\tother\t1\n", r"scores.tsv:2 names item 'other', which .* scores were made for other"),
        (HEAD + "nobody\tg0i3\t1\n", r":2 names user 'nobody'"),
        (HEAD + "u0\tg0i3\t1\nu0\tg0i4\tnan\n", r":3 has the score 'nan', which is none"),
        (HEAD + "u0\tg0i3\n", r":2 has 2 cells in place of 3"),
        (HEAD + "u0\tg0i3\t1\nu0\tg0i3\t2\n", r":3 scores item 'g0i3' for user 'u0' again, as 2 after 1"),
        (HEAD, "holds no score"),
        ("", ":1 must name the columns user_id, item_id, score"),
        ("a,b,c\n", ":1 must name the columns"),
    ],
)
def test_a_file_of_other_scores_is_refused(content, sentence, chain, tmp_path) -> None:
    path = tmp_path / "scores.tsv"
    path.write_text(content)
    with pytest.raises(UserError, match=sentence):
        FileJudge(str(path), chain[1])


def test_a_file_that_is_not_there_or_no_text_is_named(chain, tmp_path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        FileJudge("nowhere.tsv", chain[1])
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="no text in UTF-8"):
        FileJudge(str(Path(tmp_path / "bytes")), chain[1])
