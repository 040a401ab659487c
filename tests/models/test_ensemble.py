"""Several networks read as one: their scores and losses are means, and a run of them is a run."""

import pytest
import torch

from recbole_sigma.models.ensemble import ensemble_of
from recbole_sigma.quick_start import evaluate_checkpoint, run
from recbole_sigma.recommend.recommender import Recommender
from recbole_sigma.run.config import RunConfig
from recbole_sigma.run.trainer import make_trainer
from recbole_sigma.values import UserError
from tests import planted as scenes

MODELS = ["PackedSASRec", "HSTU", "BSARec", "SIGMA"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble")
    scenes.write_cycle(folder / "cycle", users=40, length=12)
    return folder


def networks(model):
    """Functions of every network, those of the first without the ensemble's own."""
    kind = type(model).__mro__[1]

    class First:
        def __getattr__(self, name):
            return getattr(kind, name).__get__(model)

    return [First(), *model.others]


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_the_mean_of_different_networks(root, tmp_path, name):
    settings = scenes.cycle_config(root, tmp_path)
    _, data, model = scenes.build(name, "cycle", settings, ensemble_size=3)
    model.eval()
    batch = scenes.one_batch(data.test)
    scores = "score_all" if name == "SIGMA" else "full_sort_predict"
    each = [getattr(network, scores)(batch) for network in networks(model)]
    assert len(each) == 3 and not torch.equal(each[0], each[1]) and not torch.equal(each[1], each[2])
    expected, found = torch.stack(each).mean(dim=0), model.full_sort_predict(batch)
    if name == "SIGMA":  # log-probabilities, which add up to one again
        expected = expected.log_softmax(dim=-1)
    torch.testing.assert_close(found, expected)
    own = batch["item_id"][:, None]
    torch.testing.assert_close(model.predict(batch), found.gather(1, own)[:, 0], rtol=1e-4, atol=1e-5)


def test_lists_are_the_best_of_the_mean(root, tmp_path):
    _, data, model = scenes.build("SIGMA", "cycle", scenes.cycle_config(root, tmp_path), ensemble_size=2)
    model.eval()
    batch = scenes.one_batch(data.test)
    seen = (torch.tensor([0, 0, 1]), torch.tensor([3, 4, 5]))
    ranked, scores = model.rank(batch, 5, seen), model.score_all(batch, seen)
    best = scores.topk(5)
    torch.testing.assert_close(ranked.scores, best.values)
    torch.testing.assert_close(scores.exp().sum(dim=1), torch.ones(len(scores)))
    assert not {3, 4} & set(ranked.items[0].tolist())


@pytest.mark.parametrize("name", MODELS)
def test_every_network_learns_from_its_own_loss_alone(root, tmp_path, name):
    """Without dropout and labels, its gradient is that of a network alone, over their number."""
    still = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
    still |= {"backbone_dropout": 0.0, "fusion_hide_id": 0.0}
    settings = scenes.cycle_config(root, tmp_path, task_labels_per_row=0, **still)
    config = RunConfig(name, "cycle", config_dict=settings)
    settings = {key: value for key, value in settings.items() if key in config.final_config_dict}
    _, data, model = scenes.build(name, "cycle", settings, ensemble_size=2)
    batch = next(iter(data.train))

    def whole(losses):
        return sum(losses) if isinstance(losses, tuple) else losses

    whole(model.calculate_loss(batch)).backward()
    (other,) = model.others
    together = {
        key: weight.grad.clone() for key, weight in other.named_parameters() if weight.grad is not None
    }
    model.zero_grad()
    whole(other.calculate_loss(batch)).backward()
    for key, weight in other.named_parameters():
        if key in together:
            torch.testing.assert_close(together[key], weight.grad / 2, rtol=1e-4, atol=1e-7)
    assert together


@pytest.mark.parametrize("name", ["PackedSASRec", "SIGMA"])
def test_a_run_is_judged_stored_and_read_again(root, tmp_path, name):
    settings = scenes.cycle_config(root, tmp_path, ensemble_size=2, epochs=2, memory="validation")
    result = run(name, "cycle", config_dict=settings)
    again = evaluate_checkpoint(result["checkpoint"])
    assert dict(again.metrics) == dict(result["test_result"])
    recommender = Recommender.load(result["checkpoint"])
    assert len(recommender.maker.model.others) == 1
    assert len(recommender.recommend(user=str(recommender.dataset.id2token("user_id", 1)))) == 10


def test_the_class_keeps_the_models_name():
    from recbole_sigma.models.packed_sasrec import PackedSASRec

    found = ensemble_of(PackedSASRec, 3)
    assert found.__name__ == "PackedSASRec" and issubclass(found, PackedSASRec)
    assert ensemble_of(PackedSASRec, 3) is found


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"policy": "grpo"}, "the policy stage trains one network"),
        ({"decode_beam": 4}, "set decode_beam: 0"),
    ],
)
def test_what_cannot_be_averaged_is_refused(root, tmp_path, changes, sentence):
    settings = scenes.cycle_config(root, tmp_path, ensemble_size=2, **changes)
    with pytest.raises(UserError, match=sentence):
        scenes.build("SIGMA", "cycle", settings)


def test_a_network_that_recbole_built_alone_is_refused(root, tmp_path):
    from recbole.trainer import Trainer

    config, data, _ = scenes.build("PackedSASRec", "cycle", scenes.cycle_config(root, tmp_path))
    alone = config.model_class(config, data.train._dataset)
    config.final_config_dict["ensemble_size"] = 2
    with pytest.raises(UserError, match="RecBole's own run builds one network"):
        make_trainer(Trainer)(config, alone)
