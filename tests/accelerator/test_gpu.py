"""What only a GPU can show: the same losses and lists as on a CPU, in fp32, and metrics near them in bf16."""

import pytest
import torch

from recbole_sigma.quick_start import build_model, run
from recbole_sigma.run.config import RunConfig
from recbole_sigma.run.loaders import load_data
from tests.planted import cycle_config, one_batch, tiny, write_cycle

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

ROWS = [
    ("PackedSASRec", {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}),
    ("PackedSASRec", {"sasrec_low_pass": 0.7, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}),
    ("HSTU", {"hidden_dropout_prob": 0.0}),
    ("BSARec", {"hidden_dropout_prob": 0.0}),
    ("SIGMA", {}),
    ("SIGMA", {"tasks": "all", "sigma_history": "long"}),
    ("SIGMA", {"sigma_objective": "paper", "tokenizer_prefix_length": 2}),
    ("TIGER", {}),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted_gpu")
    write_cycle(folder / "cycle", users=40, length=12)
    return folder


def settings_of(root, tmp_path, name, changes):
    settings = cycle_config(root, tmp_path, filter_seen=True, **changes)
    return tiny("TIGER", **settings) if name == "TIGER" else settings


@pytest.mark.parametrize(("name", "changes"), ROWS)
def test_scores_are_those_of_a_cpu(root, tmp_path, name, changes):
    settings = settings_of(root, tmp_path, name, changes)
    config = RunConfig(name, "cycle", config_dict={**settings, "use_gpu": False})
    data = load_data(config, config.model_class)
    torch.manual_seed(0)
    model = build_model(config, config.model_class, data.train).eval()
    batch = one_batch(data.test)
    with torch.no_grad():
        expected = model.full_sort_predict(batch)
        model.to("cuda")
        model.device = torch.device("cuda")
        found = model.full_sort_predict(batch.to("cuda")).cpu()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("name", "changes"), ROWS)
def test_a_whole_run_learns_the_cycle_and_goes_on(root, tmp_path, name, changes, precision):
    """Training, evaluation with the memory, and a checkpoint."""
    settings = settings_of(root, tmp_path, name, changes)
    settings |= {"train_precision": precision, "memory": "fixed", "use_gpu": True}
    result = run(name, "cycle", config_dict=settings)
    assert all(torch.isfinite(torch.tensor(entry["train_loss"])).all() for entry in result["history"])
    if name == "SIGMA" and changes.get("sigma_objective") != "paper":
        assert result["test_result"]["hit@10"] >= 0.9
    assert 0 <= result["test_result"]["ndcg@10"] <= 1


@pytest.mark.parametrize("name", ["SIGMA", "PackedSASRec"])
def test_a_step_makes_the_host_wait_for_nothing(root, tmp_path, name):
    """As the driver itself sees it."""
    settings = settings_of(root, tmp_path, name, {})
    config = RunConfig(name, "cycle", config_dict={**settings, "use_gpu": True})
    data = load_data(config, config.model_class)
    model = build_model(config, config.model_class, data.train).train()
    batches = [model.on_device(batch, "cuda") for _, batch in zip(range(2), data.train, strict=False)]
    for batch in batches[:1]:  # kernels are chosen in the first pass
        losses = model.calculate_loss(batch)
        (sum(losses) if isinstance(losses, tuple) else losses).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = model.calculate_loss(batches[-1])
        (sum(losses) if isinstance(losses, tuple) else losses).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
