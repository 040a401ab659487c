"""SIGMA where no accelerator is at hand: everything that it reads must move with it, and nothing be mixed."""

import pytest
import torch

from recbole_sigma.models.contract import contract
from recbole_sigma.quick_start import build_trainer
from tests.arithmetic import STATES
from tests.elsewhere import DEVICE, Elsewhere, pretend, reads, sends
from tests.language_models import save_model
from tests.planted import build, cycle_config, one_batch, tiny, write_cycle


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted_elsewhere")
    write_cycle(folder / "cycle", users=16, length=10)
    return folder


def test_the_pretended_device_refuses_what_a_real_one_would():
    with pretend():
        there, here = torch.arange(3, device=DEVICE), torch.arange(3)
        assert (
            there.device == DEVICE and (there + 1).tolist() == [1, 2, 3] and there.cpu().device.type == "cpu"
        )
        with pytest.raises(RuntimeError, match="two devices"):
            there + here
        with pytest.raises(RuntimeError, match="read at places of another device"):
            here[there]
        with pytest.raises(TypeError, match="no numpy array"):
            there.numpy()
        layer = torch.nn.Linear(2, 2).to(DEVICE)
        layer(torch.ones(1, 2, device=DEVICE)).sum().backward()
        assert isinstance(layer.weight.grad, Elsewhere)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tasks": "all", "sigma_history": "long"},
        {"tokenizer_prefix_length": 0},
        {"sigma_objective": "paper"},
        {"decode_mode": "top1_prefix", "decode_beam": 2},
        {"backbone": "pretrained"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())) or "default",
)
def test_training_and_lists_elsewhere_equal_those_here(root, tmp_path, changes):
    if changes.get("backbone"):
        base = save_model(tmp_path / "base", "gpt2", tie_word_embeddings=False)
        changes = {"backbone": f"pretrained:{base}"}
    small = {"grounding_steps": 2, "MAX_ITEM_LIST_LENGTH": 8, "filter_seen": True, "use_gpu": False}
    settings = cycle_config(root, tmp_path, **{**small, "tokenizer_prefix_length": 2, **changes})
    config, data, model = build("SIGMA", "cycle", settings)
    train, test = next(iter(data.train)), one_batch(data.test)
    seen = (torch.arange(len(test)), test["item_id_list"][:, 0])

    def run(device):
        """Losses and gradients without dropout, lists, the whole distribution."""
        model.train()
        model.on_epoch_start(0, data.train)
        model.eval()
        torch.manual_seed(3)
        batch = contract(model).on_device(train, torch.device(device))  # shapes are rounded up there
        batch.labelled = True
        losses = model.calculate_loss(batch)
        sum(losses).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        away = tuple(part.to(device) for part in seen)
        ranked = model.rank(test.to(device), 5, away)
        found = [
            *losses,
            *gradients.values(),
            ranked.scores,
            model.score_all(test.to(device)),
        ]
        return [value.detach().cpu() for value in found], ranked.items.cpu()

    expected, items = run("cpu")
    for parameter in model.parameters():
        parameter.grad = None
    with pretend():
        config.final_config_dict["device"] = model.device = DEVICE
        model.to(DEVICE)
        found, away = run(DEVICE)
    assert torch.equal(away, items) and len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **STATES)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("SIGMA", {}),
        ("PackedSASRec", {}),
        ("PackedSASRec", {"sasrec_low_pass": 0.7}),
        ("HSTU", {}),
        ("BSARec", {}),
        ("ClosedForm", {}),
        ("TIGER", {}),
    ],
)
def test_an_epoch_and_its_evaluation_elsewhere(root, tmp_path, name, changes):
    settings = cycle_config(root, tmp_path, grounding_steps=2, filter_seen=True, memory="fixed", **changes)
    settings |= {"learner": "adam", "use_gpu": False}  # a fused step knows real devices only
    if name == "TIGER":
        settings = tiny("TIGER", **settings)
    config, data, model = build(name, "cycle", settings)
    with pretend():
        config.final_config_dict["device"] = model.device = DEVICE
        trainer = build_trainer(config, model.to(DEVICE))
        trainer._train_data = data.train
        trainer._train_epoch(data.train, 0)
        trainer.judge.collector.data_collect(data.train)
        trainer.judge.choose(model, data.valid)
        found = trainer.judge.judge(model, data.test).metrics
    assert all(isinstance(parameter, Elsewhere) for parameter in model.parameters())
    assert 0 <= found["ndcg@10"] <= 1
    assert sum(trainer.history[0]["train_loss"]) > 0 or contract(model).training_free


@pytest.mark.parametrize(
    "name, changes",
    [
        ("SIGMA", {}),
        ("SIGMA", {"tasks": "all", "sigma_history": "long"}),
        ("SIGMA", {"tokenizer_prefix_length": 0}),
        ("PackedSASRec", {}),
    ],
)
def test_a_step_waits_for_nothing_and_a_judged_batch_once(root, tmp_path, name, changes):
    """Each value that the host reads would make an accelerator stop between two launches."""
    settings = cycle_config(root, tmp_path, grounding_steps=2, filter_seen=True, learner="adam", **changes)
    settings |= {"MAX_ITEM_LIST_LENGTH": 8, "train_batch_size": 4, "eval_batch_size": 6, "use_gpu": False}
    config, data, model = build(name, "cycle", settings)
    with pretend():
        config.final_config_dict["device"] = model.device = DEVICE
        trainer = build_trainer(config, model.to(DEVICE))
        trainer._train_data = data.train
        torch.autograd.set_detect_anomaly(False)  # RecBole's SINE switches it on when it is imported
        with reads() as found:
            trainer._train_epoch(data.train, 0)
        assert len(data.train) > 1
        # the sums of the losses and a last look at them, once per epoch
        assert found == ["tolist"] * 2
        trainer.judge.collector.data_collect(data.train)
        with reads() as found:
            trainer.judge.judge(model, data.test)
        accounts = (
            1 if (name == "SIGMA" and model.task_labels) else 0
        )  # of the tasks' losses, when training pauses
        assert found.count("tolist") - accounts == len(data.test) > 1
        assert [name for name in found if name != "tolist"] == [
            "_to_copy"
        ] * 4  # the lists, after the last batch


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("PackedSASRec", {}),
        ("PackedSASRec", {"train_rows": "prefixes"}),
        ("PackedSASRec", {"sasrec_low_pass": 0.7}),
        ("PackedSASRec", {"sasrec_score": "cosine", "sasrec_mask_seen": False}),
        ("HSTU", {}),
        ("HSTU", {"train_rows": "prefixes"}),
        ("BSARec", {}),
        ("BSARec", {"bsarec_padding": False}),
        ("TIGER", {}),
        ("SIGMA", {}),
        ("SIGMA", {"tasks": "all"}),
        ("SIGMA", {"tasks": "all", "sigma_history": "long"}),
        ("SIGMA", {"train_rows": "prefixes", "sigma_rdrop": 0.0}),
        ("SIGMA", {"sigma_soft_targets": 0.15, "sigma_rdrop": 1.0}),
        ("SIGMA", {"prefix_head": "etf"}),
    ],
)
def test_equal_shapes_read_nothing_else(root, tmp_path, name, changes):
    """A replayed step sees what `step_inputs` names: with another batch's, it gives that one's loss. Nothing
    else goes between host and device, or the step could not be recorded.
    """
    settings = cycle_config(root, tmp_path, grounding_steps=2, filter_seen=True, **changes)
    settings |= {"MAX_ITEM_LIST_LENGTH": 8, "train_batch_size": 8, "use_gpu": False}
    if name == "TIGER":
        settings = tiny("TIGER", **settings)
    config, data, model = build(name, "cycle", settings)
    model.eval()
    with pretend():
        config.final_config_dict["device"] = model.device = DEVICE
        model.to(DEVICE)
        model.on_epoch_start(0, data.train)
        batches: dict = {}
        for batch in data.train:
            there = contract(model).on_device(batch, DEVICE)
            batches.setdefault(contract(model).step_shapes(there), []).append(there)
        first, other = max(batches.values(), key=len)[:2]
        assert None not in batches

        def loss_of(batch):
            torch.manual_seed(1)
            with reads() as found, sends() as sent, torch.no_grad():
                losses = model.calculate_loss(batch)
            assert not found and not sent
            losses = losses if isinstance(losses, tuple) else (losses,)
            return torch.stack(
                [part.reshape(()).cpu() for part in (losses if isinstance(losses, tuple) else [losses])]
            )

        wanted = loss_of(other)
        for own, new in zip(
            contract(model).step_inputs(first), contract(model).step_inputs(other), strict=True
        ):
            own.copy_(new)
        torch.testing.assert_close(loss_of(first), wanted)
