"""The search: equal budgets, validation only, a log that survives a kill, settings that can be used."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from recbole_sigma.benchmark import space as spaces
from recbole_sigma.benchmark import tune as module
from recbole_sigma.benchmark.tune import tune
from recbole_sigma.benchmark.variants import rows_of
from recbole_sigma.commands.main import main
from recbole_sigma.settings.reading import load_yaml
from recbole_sigma.settings.recipes import properties_dir
from recbole_sigma.values import UserError

SPACE = "learning_rate: {low: 1.0e-3, high: 1.0e-1, log: true}\nembedding_size: {choices: [4, 8]}\n"


@pytest.fixture
def space_file(scratch: Path) -> str:
    (scratch / "space.yaml").write_text(SPACE)
    return "space.yaml"


def run(planted, space_file, models=("BPR",), trials=3, **more):
    values = {**planted, "epochs": 2}
    return tune(models, "planted", trials, space_file=space_file, config_dict=values, output="t", **more)


def trials_of(path) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()][1:]


def test_every_shipped_space_is_read_and_fits_its_model() -> None:
    from recbole_sigma.run.config import RunConfig

    for path in (properties_dir() / "tune").glob("*.yaml"):
        space = spaces.read_space(path)
        point = spaces.draw(space, np.random.default_rng(0))
        config = RunConfig(path.stem, "ml-100k", config_dict=point)
        assert all(config[key] == value for key, value in point.items())


def test_every_model_of_ours_can_be_searched() -> None:
    """Baselines too, or budgets could not be equal; a row of a variant searches what it does not set."""
    from recbole_sigma.benchmark.variants import shipped
    from recbole_sigma.models.registry import MODELS

    for name in MODELS:
        assert spaces.space_of(name, name)[0]
    causal = shipped()["BSARec-causal"]
    assert not spaces.space_of(causal.name, causal.base)[0].keys() & causal.values.keys()


def test_draws_stay_inside_and_cover_the_space() -> None:
    space = {
        "a": {"low": 1e-3, "high": 1e-1, "log": True},
        "b": {"low": 2, "high": 4, "integer": True},
        "c": {"choices": ["x", "y"]},
    }
    points = [spaces.draw(space, np.random.default_rng((0, t))) for t in range(300)]
    assert {p["b"] for p in points} == {2, 3, 4} and {p["c"] for p in points} == {"x", "y"}
    assert all(1e-3 <= p["a"] <= 1e-1 for p in points)
    assert 0.4 < np.mean([p["a"] < 1e-2 for p in points]) < 0.6, "uniform in the logarithm"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds no key"),
        ("learning_rate: 3\n", "learning_rate must be"),
        ("learning_rate: {low: 1}\n", "needs finite numbers low < high"),
        ("learning_rate: {low: 2, high: 1}\n", "needs finite numbers low < high"),
        ("learning_rate: {low: 0, high: 1, log: true}\n", "needs low > 0"),
        ("learning_rate: {low: 0, high: 1, loog: true}\n", "unknown field 'loog'; nearest: log"),
        ("embedding_size: {low: 1, high: 1.0e+400, integer: true}\n", "needs finite numbers"),
        ("learning_rate: {choices: []}\n", "choices must be a list"),
        ("knn_decay: {low: 0.5, high: 7}\n", r"knn_decay must lie in \[0, 1\]"),
    ],
)
def test_spaces_that_cannot_be_searched(text, sentence, scratch: Path) -> None:
    (scratch / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match=sentence):
        spaces.read_space(scratch / "bad.yaml")


def test_a_search_logs_every_trial_and_never_reads_the_test_set(planted, space_file, monkeypatch) -> None:
    from recbole_sigma.evaluation.judge import Judge
    from recbole_sigma.run import loaders

    loaded, judged = [], []
    load, judge = loaders.load_data, Judge.judge
    monkeypatch.setattr(loaders, "load_data", lambda *a: (loaded.append(load(*a)), loaded[-1])[1])
    monkeypatch.setattr(
        Judge, "judge", lambda self, m, data, **k: (judged.append(data), judge(self, m, data, **k))[1]
    )
    (found,) = run(planted, space_file)
    assert judged and all(any(data is each.valid for each in loaded) for data in judged)
    done = trials_of("t/BPR-planted.jsonl")
    assert [t["trial"] for t in done] == [0, 1, 2] and done[0]["point"] == {}
    assert all(t["cpu_seconds"] > 0 and t["metrics"]["ndcg@10"] == t["valid"] for t in done)
    assert found["best"] == max(t["valid"] for t in done) and found["shipped"] == done[0]["valid"]
    text = Path(found["file"]).read_text()
    for word in ("# Command: python run_recbole_sigma.py", "# Result: validation NDCG@10", "# Seconds:"):
        assert word in text
    best = max(done, key=lambda t: t["valid"])["point"]
    assert load_yaml(found["file"]) == best == found["settings"]
    if best:
        (row,) = rows_of([f"BPR:{found['file']}"])
        assert row.name == "BPR-planted" and row.values == best


def test_it_goes_on_after_a_kill_as_if_nothing_had_happened(planted, space_file) -> None:
    run(planted, space_file, trials=4)
    whole = [(t["point"], t["valid"]) for t in trials_of("t/BPR-planted.jsonl")]
    lines = Path("t/BPR-planted.jsonl").read_text().splitlines(keepends=True)
    Path("t/BPR-planted.jsonl").write_text("".join(lines[:3]) + lines[3][:40])  # killed while writing
    run(planted, space_file, trials=4)
    assert [(t["point"], t["valid"]) for t in trials_of("t/BPR-planted.jsonl")] == whole
    run(planted, space_file, trials=5)
    longer = [(t["point"], t["valid"]) for t in trials_of("t/BPR-planted.jsonl")]
    assert longer[:4] == whole and len(longer) == 5


def test_a_real_kill_between_trials(planted, space_file) -> None:
    pid = os.fork()
    if not pid:
        real = module.fit
        module.fit = lambda *a: (
            signal.raise_signal(signal.SIGKILL)
            if Path("t/BPR-planted.jsonl").read_text().count("\n") == 3
            else None,
            real(*a),
        )[1]
        run(planted, space_file, trials=4)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    before = trials_of("t/BPR-planted.jsonl")
    assert len(before) == 2
    run(planted, space_file, trials=3)
    assert trials_of("t/BPR-planted.jsonl")[:2] == before and len(trials_of("t/BPR-planted.jsonl")) == 3


def test_a_log_of_another_search_is_refused(planted, space_file) -> None:
    run(planted, space_file, trials=1)
    with pytest.raises(UserError, match="other settings, space or data"):
        run(planted, space_file, trials=1, seed=3)
    Path("t/BPR-planted.jsonl").write_text("{}\nnonsense\n")
    with pytest.raises(UserError, match="is damaged"):
        run(planted, space_file, trials=1)


def test_a_diverging_trial_is_logged_and_the_search_goes_on(planted, space_file, monkeypatch) -> None:
    real = module.fit

    def sometimes(model, dataset, files, values, words):
        if "embedding_size" in values:
            raise ValueError("NaN scores")
        return real(model, dataset, files, values, words)

    monkeypatch.setattr(module, "fit", sometimes)
    (found,) = run(planted, space_file)
    assert [t["error"] for t in trials_of(found["log"])] == [None, *["ValueError: NaN scores"] * 2]
    assert (
        found["settings"] == {} and load_yaml(found["file"]) == {} and "2 failed" in found["file"].read_text()
    )


def test_equal_budgets(planted, space_file, monkeypatch) -> None:
    both = run(planted, space_file, models=("BPR", "Pop"), trials=1)
    assert [f["trials"] for f in both] == [1, 1]
    (found,) = run(planted, space_file, trials=50, budget=1e-6)
    assert found["trials"] == 1, "the budget is spent before the second trial"


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"arguments": ["--learning_rate=0.1"]}, "learning_rate is both set and searched"),
        ({"sampler": "tpee"}, "--sampler must be one of random, tpe; not 'tpee'; nearest: tpe"),
        ({"trials": 0}, "--trials must be at least 1"),
        ({"models": ("Pop",), "space_file": None}, "no search space for Pop"),
    ],
)
def test_mistakes_are_found_before_the_first_trial(more, sentence, planted, space_file, monkeypatch) -> None:
    monkeypatch.setattr(module, "fit", None)
    with pytest.raises(UserError, match=sentence):
        run(planted, **{"space_file": space_file, **more})
    assert not Path("t").exists()


def test_tpe_replays_its_log(planted, space_file) -> None:
    pytest.importorskip("hyperopt")
    run(planted, space_file, trials=4, sampler="tpe")
    whole = [(t["point"], t["valid"]) for t in trials_of("t/BPR-planted.jsonl")]
    lines = Path("t/BPR-planted.jsonl").read_text().splitlines(keepends=True)
    Path("t/BPR-planted.jsonl").write_text("".join(lines[:3]))
    run(planted, space_file, trials=4, sampler="tpe")
    assert [(t["point"], t["valid"]) for t in trials_of("t/BPR-planted.jsonl")] == whole
    assert len({json.dumps(point) for point, _ in whole}) == 4


def test_tpe_finds_a_known_optimum_and_stops_on_demand() -> None:
    pytest.importorskip("hyperopt")
    space = {
        "x": {"low": -4.0, "high": 4.0},
        "n": {"low": 1, "high": 3, "integer": True},
        "c": {"choices": [0, 1]},
    }
    seen = []

    def objective(trial, point):
        assert trial == len(seen)
        if trial == 60:
            raise StopIteration
        seen.append(point)
        return -((point["x"] - 1) ** 2) - point["c"] + point["n"]

    spaces.search(space, "tpe", 100, 0, objective)
    assert len(seen) == 60
    best = max(seen, key=lambda p: -((p["x"] - 1) ** 2) - p["c"] + p["n"])
    assert abs(best["x"] - 1) < 0.5 and best["c"] == 0 and best["n"] == 3


def test_the_command(planted, space_file, capsys) -> None:
    argv = [
        "tune",
        "--models=BPR,SASRec-BPR",
        "--dataset=planted",
        "--trials=3",
        "--quiet",
        "--space=space.yaml",
        "--output=t",
        "--epochs=1",
        f"--data_path={planted['data_path']}",
        "--load_col={inter: [user_id, item_id, timestamp]}",
    ]
    assert main([word for word in argv if "SASRec" not in word] + ["--model=BPR"]) == 0
    out = capsys.readouterr().out
    assert "shipped" in out and "t/BPR-planted.yaml" in out
    for wrong, sentence in (
        (["tune", "--dataset=planted"], "tune needs --model"),
        (["tune", "--model=BPR", "--dataset=planted", "--trials=x"], "--trials must be a positive number"),
        (["tune", "--model=BPR", "--dataset=planted", "--trials=1.5"], "--trials must be a positive number"),
        (["tune", "--model=BPR", "--dataset=planted", "--force"], "--force does not belong"),
        (["benchmark", "--models=BPR", "--dataset=planted", "--trials=3"], "--trials does not belong"),
    ):
        assert main(wrong) == 2
        assert sentence in capsys.readouterr().err
