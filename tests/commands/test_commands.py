"""The command line: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_sigma import benchmark
from recbole_sigma.benchmark.results import COLUMNS
from recbole_sigma.benchmark.variants import rows_of
from recbole_sigma.commands import main as cli
from recbole_sigma.commands import tables
from recbole_sigma.commands.main import main
from recbole_sigma.commands.words import checkpoint_named
from recbole_sigma.values import UserError


def words(planted) -> list[str]:
    return [
        f"--data_path={planted['data_path']}",
        "--load_col={inter: [user_id, item_id, timestamp]}",
        "--train_batch_size=32",
    ]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--model=BPR", "--dataset=ml-100"], "does not exist; nearest: ml-100k"),
        (["--model=BPR"], "no dataset is named"),
        (["demmo"], "unknown verb 'demmo'; nearest: demo"),
        (["--model"], "--model needs a value"),
        (["benchmark", "--models=Pop"], "needs --models"),
        (["benchmark", "--models=Pop,Popp", "--dataset=ml-100k"], "unknown model 'Popp'; nearest: Pop"),
        (["demo", "--seeds=a"], "--seeds must be integers"),
        (["--help", "--model=SIGMAA"], "no property file for model 'SIGMAA'; nearest: SIGMA"),
    ],
)
def test_mistakes_give_one_sentence_and_exit_code_2(argv, sentence, capsys, scratch: Path) -> None:
    assert main(argv) == 2
    out = capsys.readouterr()
    assert sentence in out.err and "Traceback" not in out.err and not out.out
    assert not (scratch / "saved").exists()


def test_help_teaches(capsys) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for part in (
        "usage:",
        "demo",
        "examples",
        "--filter_seen=true",
        "Never recommend what the user met",
        "PackedSASRec",
    ):
        assert part in text
    assert main(["-h", "--model=WindowItemKNN"]) == 0
    assert "--knn_decay=0.8" in capsys.readouterr().out


@pytest.mark.parametrize("verb", sorted(cli.parsers()[1]))
def test_every_verb_shows_its_options_and_two_examples(verb, capsys) -> None:
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    options = cli.parsers()[1][verb].options() - {"users-file", "history-until"}  # other spellings
    assert all(f"--{name}" in text for name in options)
    assert text.partition("examples\n")[2].count(f" {verb}") + (verb == "train") * 2 >= 2
    assert "--memory_ridge" not in text  # the keys are listed by --help without a verb


def test_keys_pass_through_a_verb_in_their_order() -> None:
    words = ["--a=1", "--models=Pop", "--b", "-3", "stray", "--quiet", "--c", "[1, 2]", "--d"]
    options, rest = cli.parsers()[1]["benchmark"].parse_known_args(words)
    assert options.models == "Pop" and options.quiet and not options.json
    assert rest == ["--a=1", "--b", "-3", "stray", "--c", "[1, 2]", "--d"]


HEAVY = (
    "torch",
    "numpy",
    "pandas",
    "scipy",
    "sklearn",
    "transformers",
    "tokenizers",
    "faiss",
    "ray",
    "recbole",
)


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--help"], 0),
        (["--help", "--model=SIGMA"], 0),
        (["tune", "--help"], 0),
        (["--version"], 0),
        (["benchmark", "--models=list"], 0),
        (["benchmrk"], 2),
        (["--model"], 2),
        (["--model=SIGM", "--dataset=ml-100k"], 2),
        (["--model=SIGMA", "--dataset=ml-100k", "--epoch=3"], 2),
        (["--model=BPR", "--dataset=ml-100k", "--epochs=many"], 2),
        (["--model=BPR", "--dataset=ml-100k", "--config_files=none.yaml"], 2),
        (["--model=BPR"], 2),
        (["benchmark", "--models=Pop,Popp", "--dataset=ml-100k"], 2),
        (["benchmark", "--models=Pop", "--dataset=ml-100k", "--epoch=3"], 2),
        (["tune", "--model=SIGM", "--dataset=ml-100k"], 2),
        (["recommend", "--checkpoint=x", "--histori=y"], 2),
        (["export", "--checkpoint=x"], 2),
        (["report"], 2),
        (["tasks", "--dataset=ml-100k", "--epoch=3"], 2),
    ],
)
def test_help_lists_and_typed_mistakes_load_nothing_heavy(argv, code, scratch: Path) -> None:
    program = (
        "import sys\n"
        "from recbole_sigma.commands.main import main\n"
        f"code = main({argv!r})\n"
        f"print(code, [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{code} []", done.stderr


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["benchmark", "--models=Pop", "--models=BPR"], "--models is given twice with different values"),
        (["--mod=BPR", "--dataset=ml-100k"], "unknown key 'mod'"),
        (["train", "--quiet=false"], "--quiet: ignored explicit argument 'false'"),
        (["report", "--output=x", "--epochs=3"], "report needs --output"),
        (
            ["export", "--checkpoint=x", "--output=y", "--dtyp=bf16"],
            "unknown word '--dtyp=bf16'; nearest: dtype",
        ),
    ],
)
def test_mistakes_in_options_are_sentences(argv, sentence, capsys) -> None:
    assert main(argv) == 2
    out = capsys.readouterr()
    assert sentence in out.err and "Traceback" not in out.err and not out.out


def test_version(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == "0.1.0"


def test_a_models_file_is_no_unknown_model(scratch: Path, capsys) -> None:
    assert main(["--model=none.py:Mine", "--dataset=ml-100k"]) == 2
    assert "none.py:Mine: there is no file none.py" in capsys.readouterr().err


@pytest.mark.parametrize("style", ["--key=value", "--key value"])
def test_one_model(style, planted, capsys, scratch: Path) -> None:
    argv = ["--model=BPR", "--dataset=planted", "--epochs=1", "--quiet", "--output=out", *words(planted)]
    if style == "--key value":
        argv = [part for word in argv for part in (word.split("=", 1) if "=" in word else [word])]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "HR@10" in out and "seen items filtered" in out
    (path,) = (scratch / "out").glob("BPR-planted-*.json")
    record = json.loads(path.read_text())
    assert str(path.relative_to(scratch)) in out
    (cell,) = record["cells"]
    assert cell["config"]["epochs"] == 1 and record["protocol"]["filter_seen"] is True
    assert len(cell["places"]["places"]) == 60 and record["versions"]["torch"]
    assert Path(cell["checkpoint"]).is_file()


def test_config_files_and_the_command_line(planted, scratch: Path) -> None:
    (scratch / "a.yaml").write_text("epochs: 3\nseed: 11\nshow_progress: false\n")
    (scratch / "b.yaml").write_text("epochs: 2\n")
    argv = [
        "--model=BPR",
        "--dataset=planted",
        "--config_files=a.yaml b.yaml",
        "--output=out",
        *words(planted),
    ]
    assert main([*argv, "--seed=12", "--state=ERROR"]) == 0
    (path,) = (scratch / "out").glob("*.json")
    config = json.loads(path.read_text())["cells"][0]["config"]
    assert config["epochs"] == 2 and config["seed"] == 12


def test_a_table_of_models_and_seeds(planted, capsys, scratch: Path) -> None:
    argv = [
        "benchmark",
        "--models=Pop,WindowItemKNN,BPR",
        "--dataset=planted",
        "--seeds=1,2",
        "--epochs=1",
        "--quiet",
        "--output",
        "t",
    ]
    assert main([*argv, *words(planted)]) == 0
    out = capsys.readouterr().out
    record = json.loads(Path("t/results.json").read_text())
    assert [(c["model"], c["seed"]) for c in record["cells"]] == [
        ("Pop", 1),
        ("WindowItemKNN", 1),
        ("BPR", 1),
        ("BPR", 2),
    ]
    assert "±" in out and "results: t/results.json" in out
    bpr = record["table"][2]
    values = [c["test_result"]["ndcg@10"] for c in record["cells"][2:]]
    assert bpr["ndcg@10"] == pytest.approx(sum(values) / 2)
    assert main([*argv, *words(planted)]) == 0
    assert "kept from before: 4 cells" in capsys.readouterr().out


def test_the_demo_says_what_comes_and_what_to_do_next(capsys, scratch: Path, monkeypatch) -> None:
    asked = {}

    def fake(models, dataset, seeds, policies=None, **more):
        asked.update(models=models, dataset=dataset, seeds=seeds, **more)
        row = {"model": "Pop", "seconds": 1.0, "filter_seen": True, **{c: 0.5 for c in COLUMNS}}
        protocol = {"eval_args": {"split": {}, "order": "TO"}, "filter_seen": True, "history": 50}
        outcome = {"kept": [], "failed": [], "elsewhere": [], "done": ["Pop"]}
        told = {"notes": [], "corrected": []}
        return {"cells": [{"protocol": protocol}], "table": [row], "outcome": outcome, **told}

    monkeypatch.setattr(benchmark, "run_benchmark", fake)
    assert main(["demo"]) == 0
    assert tuple(asked["models"]) == tables.DEMO_MODELS and asked["dataset"] == "ml-100k"
    out = capsys.readouterr().out
    for column in ("HR@1", "HR@5", "HR@10", "HR@20", "NDCG@10", "NDCG@20", "seconds"):
        assert column in out
    begin, _, end = out.partition("HR@1 ")
    assert "minutes" in begin and all(name in begin for name in tables.DEMO_MODELS)
    assert "saved/results/demo-ml-100k-" in end and "--checkpoint=latest" in end
    assert main(["demo", "--models=Pop"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("in a browser")


def test_every_command_that_the_demo_ends_with_is_one(capsys, monkeypatch) -> None:
    """Their words are parsed as typed; what they would run is cut off."""
    import shlex

    from recbole_sigma.commands.main import parsers

    lines = [line.strip() for line in tables.DEMO_END.splitlines() if "{program}" in line]
    assert len(lines) == 3
    for line in lines:
        _, verb, *given = shlex.split(line.format(program="x", dataset="ml-100k"))
        options, rest = parsers()[1][verb].parse_known_args(given)
        assert not rest and (verb != "benchmark" or rows_of(options.models.split(",")))


def test_latest_is_the_newest_model(scratch: Path) -> None:
    with pytest.raises(UserError, match="no trained model lies below"):
        checkpoint_named("latest")
    files = [
        scratch / name
        for name in (
            "saved/A.safetensors",
            "saved/benchmark/x/checkpoints/SIGMA-1-ab.json",
            "saved/benchmark/x/checkpoints/ab.safetensors",
            "saved/runs/1/last.safetensors",
        )
    ]
    for age, path in enumerate(files):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        os.utime(path, (1e9 + age, 1e9 + age))
    assert Path(checkpoint_named("latest")) == Path("saved/benchmark/x/checkpoints/SIGMA-1-ab.json")
    os.utime(files[0], (2e9, 2e9))
    assert Path(checkpoint_named("latest")) == Path("saved/A.safetensors")
    assert checkpoint_named("other.safetensors") == "other.safetensors"


def test_latest_is_named_on_standard_error(scratch: Path, capsys) -> None:
    (scratch / "saved").mkdir()
    (scratch / "saved" / "A.safetensors").write_text("")
    words = ["recommend", "--checkpoint=latest", "--history=a"]
    assert main(words) == 2  # the file holds nothing
    assert "--checkpoint=latest is saved/A.safetensors" in capsys.readouterr().err
    assert main([*words, "--quiet"]) == 2
    assert "latest is" not in capsys.readouterr().err


def test_ctrl_c_is_130(monkeypatch, capsys) -> None:
    def interrupted(options, rest):
        raise KeyboardInterrupt

    monkeypatch.setattr(tables, "demo", interrupted)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err.startswith("stopped (the same command with --resume")


def test_a_folder_that_cannot_be_written(planted, scratch: Path, capsys) -> None:
    (scratch / "log").write_text("a file where the log folder should be")
    assert main(["--model=Pop", "--dataset=planted", "--quiet", *words(planted)]) == 2
    err = capsys.readouterr().err
    assert "log" in err and "Traceback" not in err


def test_the_script_and_the_module_run(scratch: Path) -> None:
    script = Path(cli.__file__).resolve().parents[1] / "run_recbole_sigma.py"
    if script.is_file():
        done = subprocess.run(
            [sys.executable, str(script), "--version"], capture_output=True, text=True, check=False
        )
        assert done.stdout.strip() == "0.1.0", done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "recbole_sigma", "--model=SIGM", "--dataset=x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
