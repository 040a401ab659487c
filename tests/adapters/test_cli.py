from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from dataset_adapters.cli import convert_parser, main
from dataset_adapters.job import PROTOCOLS, resolve_inputs
from dataset_adapters.registry import ADAPTERS, LABELLED
from dataset_adapters.sources import SOURCES

PROPERTIES = Path(__file__).resolve().parents[2] / "properties" / "dataset"
SHIPPED = (
    "ml-100k ml-1m ml-latest-small amazon-beauty amazon-sports amazon-toys yelp office industrial bestbuy"
    " lastfm"
)


def test_list_names_every_adapter_and_what_fetch_knows(capsys):
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    names = [line.split()[0] for line in printed.splitlines() if line[0] == " "]
    assert names == [*ADAPTERS, *LABELLED, *SOURCES]
    wanted = "movielens amazon2014 amazon2018 amazon2023 s3rec minionerec yelp lastfm-hetrec bestbuy table"
    assert set(wanted.split()) == set(ADAPTERS)


@pytest.mark.parametrize("name", [*ADAPTERS, *LABELLED])
def test_describe_and_help(name, capsys):
    assert main(["describe", name]) == 0
    text = capsys.readouterr().out
    adapter = {**ADAPTERS, **LABELLED}[name]
    assert adapter.licence in text and adapter.citation in text and adapter.homepage in text
    assert all(f"--{spec.role}" in text for spec in adapter.inputs)
    assert name in LABELLED or set(adapter.protocols) <= set(PROTOCOLS)
    with pytest.raises(SystemExit) as stop:
        main(["convert", name, "--help"])
    assert stop.value.code == 0 and "--on-bad-row" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["describe", "amazn2014"], "did you mean 'amazon2014'?"),
        (["convert", "movielense"], "did you mean 'movielens'?"),
        (["convert", "yelp", "--output", "x"], "yelp needs --reviews"),
        (["convert", "yelp", "--reviews", "nowhere.json", "--output", "x"], "nowhere.json: no such file"),
        (["convert", "yelp", "--reviews", "a", "--bussiness", "b"], "did you mean '--business'?"),
        (
            ["convert", "yelp", "--input", "strange.bin", "--output", "x"],
            "give it as one of --reviews, --business",
        ),
        (["convert", "yelp"], "--output"),
        (["convert", "yelp", "--reviews", "a", "--output", "x", "--output", "y"], "--output is given twice"),
        (
            ["convert", "yelp", "--reviews", "a", "--reviews", "b", "--output", "x"],
            "--reviews is given twice",
        ),
        (
            ["convert", "yelp", "--reviews", "a", "--output=x", "--k-core", "5", "--k-core=0"],
            "--k-core is given",
        ),
        (["convert", "yelp", "--output=x", "--html", "keep", "--html=unescape"], "--html is given twice"),
        (["nonsense"], "invalid choice"),
        ([], "required: verb"),
    ],
)
def test_mistakes_of_the_user(arguments, reason, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert reason in printed.err and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_with_two_candidates_is_not_guessed(convert, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in ("ratings.dat", "ratings.csv"):
        (raw / name).write_text("x")
    assert "name the one you mean" in convert("movielens", "--input", raw).sentence()


@pytest.mark.parametrize("name", SHIPPED.split())
def test_shipped_recipes(name):
    text = (PROPERTIES / f"{name}.yaml").read_text(encoding="utf-8")
    header = text[: text.index("\n\n")]
    assert all(line.startswith("#") for line in header.splitlines())
    for part in ("assumes ", "run ", "protocol ", "source "):
        assert f"# {part}" in header
    assert name == "ml-100k" or "--output dataset/" in header
    settings = yaml.safe_load(text)
    for key in (
        "text_fields",
        "category_field",
        "brand_field",
        "query_field",
        "profile_fields",
        "eval_args",
        "filter_seen",
    ):
        assert key in settings
    items = settings["load_col"]["item"]
    roles = [*settings["text_fields"], settings["category_field"], settings["brand_field"]]
    assert set(filter(None, roles)) == set(items) - {"item_id"}
    assert set(settings["profile_fields"]) == set(settings["load_col"].get("user", ["user_id"])) - {"user_id"}
    assert settings["query_field"] in [None, *settings["load_col"]["inter"]]
    assert settings["eval_args"]["mode"] == "full" and isinstance(settings["filter_seen"], bool)


def test_shipped_recipes_are_those_of_the_issue():
    assert {p.stem for p in PROPERTIES.glob("*.yaml")} == set(SHIPPED.split())


def data_settings(name):
    """What a shipped recipe says of the data; its hints for models (votes, tasks) are not the converter's."""
    settings = yaml.safe_load((PROPERTIES / f"{name}.yaml").read_text())
    return {k: v for k, v in settings.items() if not k.startswith(("task_", "knn_", "memory_"))}


def convert_small(convert, name, tmp_path):
    """Convert a few rows in the raw schema of a shipped recipe with the command of its header."""
    raw = tmp_path / "ml-1m"
    raw.mkdir()
    rows = range(60)
    if name == "ml-1m":
        (raw / "ratings.dat").write_text(
            "".join(f"{n % 5 + 1}::{n // 5 + 1}::4::{978300000 + n}\n" for n in rows)
        )
        (raw / "movies.dat").write_text(
            "".join(
                f"{n + 1}::T{n} (19{80 + n})::Drama|War\n" if n else "1::A (1990)::War\n" for n in range(12)
            )
        )
        (raw / "users.dat").write_text("".join(f"{n + 1}::F::25::{n}::1234{n}\n" for n in range(5)))
        return convert("movielens", "--input", raw, "--name", name, "--quiet")
    category = {
        "amazon-beauty": "Beauty",
        "amazon-sports": "Sports_and_Outdoors",
        "amazon-toys": "Toys_and_Games",
    }[name]
    reviews, meta = raw / f"reviews_{category}_5.json", raw / f"meta_{category}.json"
    review = [
        {"reviewerID": f"u{n % 5}", "asin": f"a{n % 6}", "unixReviewTime": 10**9 + n, "overall": 5.0}
        for n in rows
    ]
    reviews.write_text("".join(json.dumps(r) + "\n" for r in review))
    meta.write_text(
        "".join(
            str({"asin": f"a{n}", "title": f"T{n}", "brand": "B", "categories": [["C", f"D{n}"]]}) + "\n"
            for n in range(6)
        )
    )
    return convert("amazon2014", "--reviews", reviews, "--meta", meta, "--quiet")


@pytest.mark.parametrize("name", ["ml-1m", "amazon-beauty", "amazon-sports", "amazon-toys"])
def test_shipped_recipe_equals_the_one_that_the_conversion_writes(name, convert, tmp_path):
    """The Beauty instructions with changed paths are enough for Toys: same name rule, same recipe."""
    run = convert_small(convert, name, tmp_path)
    written = yaml.safe_load((run.folder(name) / f"{name}.yaml").read_text())
    assert written == data_settings(name)


@pytest.mark.parametrize(
    ("name", "adapter", "folder"),
    [
        ("bestbuy", "bestbuy", "bestbuy_xbox_queries"),
        ("lastfm", "lastfm-hetrec", "lastfm_hetrec2011"),
        ("ml-latest-small", "movielens", "movielens_latest_small"),
    ],
)
def test_shipped_recipe_equals_the_one_of_the_real_files(name, adapter, folder, convert, shared):
    run = convert(adapter, "--input", shared(folder), "--name", name, "--quiet")
    written = yaml.safe_load((run.folder(name) / f"{name}.yaml").read_text())
    assert written == data_settings(name)


def test_no_leaking_column_is_ever_written(convert, tmp_path, files):
    leaks = {
        "salesRank": {"A": 1},
        "related": {"also_bought": ["a1"]},
        "rank": "5",
        "also_buy": ["a1"],
        "average_rating": 4.5,
        "rating_number": 9,
        "price": 1.0,
    }
    reviews, meta = tmp_path / "reviews_X_5.json", tmp_path / "meta_X.json"
    reviews.write_text(
        "".join(
            json.dumps(
                {
                    "reviewerID": f"u{n % 5}",
                    "asin": f"a{n % 6}",
                    "unixReviewTime": 10**9 + n,
                    "reviewText": "LEAK",
                }
            )
            + "\n"
            for n in range(60)
        )
    )
    meta.write_text("".join(str({"asin": f"a{n}", "title": "T"} | leaks) + "\n" for n in range(6)))
    run = convert("amazon2014", "--reviews", reviews, "--meta", meta, "--name", "x")
    header, rows = files.atomic(run.folder("x") / "x.item")
    assert [h.split(":")[0] for h in header] == ["item_id", "title", "brand", "categories", "description"]
    assert (
        all(row[2:] == ["", "", ""] for row in rows)
        and "LEAK" not in (run.folder("x") / "x.inter").read_text()
    )


def commands(text: str) -> list[list[str]]:
    """Command lines in a text, continued over a backslash, as the shell would split them."""
    joined = re.sub(r"\\\n#?\s*", " ", text)
    found = re.findall(r"python -m dataset_adapters convert ([^`\n]+)", joined)
    return [shlex.split(line) for line in found]


@pytest.mark.parametrize("name", [n for n in SHIPPED.split() if n != "ml-100k"])
def test_commands_in_the_recipes_are_accepted(name):
    found = commands((PROPERTIES / f"{name}.yaml").read_text(encoding="utf-8"))
    assert found
    for adapter, *arguments in found:
        options = convert_parser(ADAPTERS[adapter]).parse_args(arguments)
        assert options.output == "dataset/"
        given = {spec.role for spec in ADAPTERS[adapter].inputs if getattr(options, f"input_{spec.role}")}
        assert options.input or {s.role for s in ADAPTERS[adapter].inputs if s.required} <= given


@pytest.mark.parametrize("name", ADAPTERS)
def test_example_of_describe_is_accepted(name, capsys):
    main(["describe", name])
    ((adapter, *arguments),) = commands(capsys.readouterr().out)
    convert_parser(ADAPTERS[adapter]).parse_args(arguments)


def test_bring_your_own_data_set_as_the_page_says(tmp_path, monkeypatch, capsys):
    page = (PROPERTIES.parents[1] / "docs" / "datasets.md").read_text(encoding="utf-8")
    steps = page[page.index("## Bring your own") : page.index("## What is written")]
    assert len(re.findall(r"^\d+\. ", steps, re.M)) == 10
    (command,) = commands(steps)
    header = re.search(r"for instance, `([^`]+)`", steps)[1]
    rows = "".join(
        f"v{n % 9},{n * 7 % 23:03d},{1_600_000_000 + n * 60},Thing {n * 7 % 23},d{n * 7 % 23 % 3}\n"
        for n in range(200)
    )
    (tmp_path / "clicks.csv").write_text(f"{header}\n{rows}")
    monkeypatch.chdir(tmp_path)
    assert main(["convert", *command]) == 0
    told = capsys.readouterr().out
    assert "train on it: python -m recbole_sigma --model=SIGMA --dataset=clicks --data_path=dataset" in told
    assert "--dataset=clicks --data_path=dataset" in steps
    assert (tmp_path / "dataset/clicks/clicks.card.md").is_file()


@pytest.mark.parametrize("name", ["Musical_Instruments", "Movies_and_TV"])
def test_reviews_and_meta_are_told_apart_by_name(name, tmp_path):
    for adapter, ending in (("amazon2018", ".json.gz"), ("amazon2023", ".jsonl.gz")):
        paths = [tmp_path / f"{name}{ending}", tmp_path / f"meta_{name}{ending}"]
        for path in paths:
            path.write_text("x")
        found = resolve_inputs(ADAPTERS[adapter], {}, list(map(str, paths)))
        assert found == {"reviews": [paths[0]], "meta": [paths[1]]}


@pytest.mark.parametrize("unit", [(), ("--time-unit", "s"), ("--time-unit", "ms")])
def test_times_that_count_from_a_sessions_start_get_the_hint(convert, tmp_path, unit):
    """Diginetica's ``timeframe`` is milliseconds since the session began, and 0 in its first row."""
    views = tmp_path / "views.csv"
    views.write_text("s,i,timeframe\n1,a,0\n1,b,5787\n2,a,158\n2,b,0\n")
    words = ("table", "--input", views, "--user", "s", "--item", "i", "--time", "timeframe")
    assert "views.csv:2: time '0'" in (told := convert(*words, *unit).sentence())
    assert "--time-unit=order takes it as places" in told
    convert(*words, "--time-unit", "order").folder("views")
