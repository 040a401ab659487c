"""RecBole reads back what the raw file says: users, items, interactions, order and text, compared by hash."""

from __future__ import annotations

import csv
import hashlib
import html
import json
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_adapters.values import TextCleaner

pytestmark = pytest.mark.filterwarnings("ignore")
ROOT = Path(__file__).resolve().parents[2]


def digest(value) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()


def recbole_events(dataset, *extra: str) -> list[list]:
    """Interactions by user, each user's by (time as written, file order)."""
    table = dataset.inter_feat
    names = ["user_id", "item_id", *extra]
    columns = [dataset.id2token(name, table[name].to_numpy()).tolist() for name in names]
    times = table["timestamp"].tolist()
    order = sorted(range(len(times)), key=lambda row: (columns[0][row], times[row]))
    return [[column[row] for column in columns] + [times[row]] for row in order]


def recbole_texts(dataset, *fields: str) -> dict[str, list]:
    """Item texts by item token."""
    table = dataset.item_feat
    found = {}
    for number, token in enumerate(dataset.field2id_token["item_id"][1:], 1):
        cells = []
        for name in fields:
            value = table[name][number]
            if isinstance(value, float | int):
                cells.append("" if int(value) == 0 else str(dataset.id2token(name, int(value))))
            else:
                cells.append([str(t) for t in dataset.id2token(name, value)] if len(value) else [])
        found[str(token)] = cells
    return found


def stable(events: list[list]) -> list[list]:
    return sorted(events, key=lambda e: (e[0], e[-1]))


def test_movielens_100k(convert, shared, recbole_dataset):
    raw = shared("movielens_100k")
    run = convert("movielens", "--input", raw, "--quiet")
    dataset = recbole_dataset(run.folder("movielens-100k"))
    lines = [line.split("\t") for line in (raw / "u.data").read_text().splitlines()]
    expected = stable([[u, i, float(t)] for u, i, _, t in lines])
    assert digest(recbole_events(dataset)) == digest(expected)
    movies = [line.split("|") for line in (raw / "u.item").read_text("latin-1").splitlines()]
    genres = [line.split("|")[0] for line in (raw / "u.genre").read_text().splitlines() if line]
    texts = {
        m[0]: [
            "" if m[1] == "unknown" else m[1].strip(),
            [g for g, flag in zip(genres, m[5:], strict=True) if flag == "1" and g != "unknown"],
        ]
        for m in movies
    }
    texts["267"][0] = "unknown"  # a title is a title, whatever the word
    read = recbole_texts(dataset, "title", "genres")
    assert digest(sorted(read.items())) == digest(sorted(texts.items()))
    people = [line.split("|") for line in (raw / "u.user").read_text().splitlines()]
    users = dataset.field2id_token["user_id"]
    for field, at in (("age", 1), ("gender", 2), ("occupation", 3)):
        values = dataset.id2token(field, dataset.user_feat[field].to_numpy().astype(int))
        assert dict(zip(users[1:], values[1:], strict=True)) == {p[0]: p[at] for p in people}


def test_movielens_latest_small_in_both_line_ends(convert, shared, recbole_dataset, tmp_path):
    raw = shared("movielens_latest_small")
    (tmp_path / "crlf").mkdir()
    for name in ("ratings.csv", "movies.csv"):
        (tmp_path / "crlf" / name).write_bytes((raw / name).read_bytes().replace(b"\n", b"\r\n"))
    read = []
    for n, folder in enumerate((raw, tmp_path / "crlf")):
        run = convert("movielens", "--input", folder, "--name", f"ml{n}", "--quiet")
        read.append(
            (run.folder(f"ml{n}") / f"ml{n}.inter").read_bytes()
            + (run.folder(f"ml{n}") / f"ml{n}.item").read_bytes()
        )
    assert read[0] == read[1]
    recipe = ROOT / "properties" / "dataset" / "ml-latest-small.yaml"
    dataset = recbole_dataset(run.folder("ml1"), recipe)
    with open(raw / "ratings.csv", newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert digest(recbole_events(dataset)) == digest(stable([[u, i, float(t)] for u, i, _, t in rows]))
    with open(raw / "movies.csv", newline="", encoding="utf-8") as file:
        movies = {
            m: [t.strip(), [] if g == "(no genres listed)" else g.split("|")]
            for m, t, g in list(csv.reader(file))[1:]
        }
    rated = {row[1] for row in rows}
    expected = {m: v for m, v in movies.items() if m in rated}
    assert digest(sorted(recbole_texts(dataset, "title", "genres").items())) == digest(
        sorted(expected.items())
    )


def test_bestbuy_with_real_queries_and_milliseconds(convert, shared, recbole_dataset, files):
    raw = shared("bestbuy_xbox_queries")
    run = convert("bestbuy", "--input", raw, "--quiet")
    dataset = recbole_dataset(run.folder("bestbuy"))
    from datetime import UTC, datetime

    clean, expected = TextCleaner(unescape=False), []
    for name in ("test.csv.gz", "train.csv.gz"):
        for user, sku, _, query, click, _ in list(csv.reader(files.raw_lines(raw / name)))[1:]:
            moment = datetime.fromisoformat(click).replace(tzinfo=UTC)
            seconds = int(moment.timestamp()) + moment.microsecond / 1e6
            expected.append([user, sku, clean.text(query), round(seconds, 6)])
    read = [[*e[:-1], round(e[-1], 6)] for e in recbole_events(dataset, "query")]
    assert len(read) == 42_365 and digest(read) == digest(stable(expected))
    assert len({e[2] for e in read}) >= 5_900 and clean.changes["control_characters_to_space"] == 0
    names = dict(line.rstrip("\n").split("\t") for line in files.raw_lines(raw / "sku_name.tsv"))
    read_names = recbole_texts(dataset, "title")
    assert {sku: [names.get(sku, "").strip()] for sku in read_names} == read_names


def test_gift_cards_of_2018(convert, shared, recbole_dataset, files):
    raw = shared("amazon2018_gift_cards")
    run = convert("amazon2018", "--input", raw, "--k-core", 0, "--quiet")
    dataset = recbole_dataset(run.folder("amazon2018-gift-cards"))
    reviews = [json.loads(line) for line in files.raw_lines(raw / "Gift_Cards_5.json.gz")]
    expected = stable([[r["reviewerID"], r["asin"], float(r["unixReviewTime"])] for r in reviews])
    assert len(expected) == 2_972 and digest(recbole_events(dataset)) == digest(expected)
    titles, categories = {}, {}
    for line in files.raw_lines(raw / "meta_Gift_Cards.json.gz"):
        record = json.loads(line)
        titles.setdefault(record["asin"], html.unescape(record["title"]).strip())
        categories.setdefault(record["asin"], list(dict.fromkeys(map(html.unescape, record["category"]))))
    read = recbole_texts(dataset, "title", "brand", "categories")
    assert len(read) == 148 and all(values[0] == titles[item] for item, values in read.items())
    assert all(values[2] == categories[item] for item, values in read.items())
    text = "".join(p.read_text() for p in run.folder("amazon2018-gift-cards").glob("*.inter"))
    assert (
        "reviewText" not in text
        and "also_buy" not in (run.folder("amazon2018-gift-cards") / "amazon2018-gift-cards.item").read_text()
    )


def test_shipped_recipe_reads_items_whose_titles_are_all_missing(convert, recbole_dataset, tmp_path):
    """The published pieces of Sports have no title; the recipe for the raw files must still load them."""
    reviews, meta = (
        tmp_path / "reviews_Sports_and_Outdoors_5.json",
        tmp_path / "meta_Sports_and_Outdoors.json",
    )
    reviews.write_text(
        "".join(
            json.dumps({"reviewerID": f"u{n % 5}", "asin": f"a{n % 6}", "unixReviewTime": 10**9 + n}) + "\n"
            for n in range(60)
        )
    )
    meta.write_text(
        "".join(
            str({"asin": f"a{n}", "categories": [["Sports & Outdoors", f"kind {n}"]]}) + "\n"
            for n in range(5)
        )
    )
    run = convert("amazon2014", "--input", reviews, meta, "--quiet")
    dataset = recbole_dataset(
        run.folder("amazon-sports"), ROOT / "properties" / "dataset" / "amazon-sports.yaml"
    )
    read = recbole_texts(dataset, "title", "categories")
    assert read["a0"] == ["", ["Sports & Outdoors", "kind 0"]] and read["a5"] == ["", []]


def test_lastfm_without_times(convert, shared, recbole_dataset, files):
    raw = shared("lastfm_hetrec2011")
    run = convert("lastfm-hetrec", "--input", raw, "--quiet")
    dataset = recbole_dataset(run.folder("lastfm"))
    pairs = {tuple(line.split("\t")[:2]) for line in list(files.raw_lines(raw / "user_artists.dat.gz"))[1:]}
    users, items = (dataset.id2token(f, dataset.inter_feat[f].to_numpy()) for f in ("user_id", "item_id"))
    assert set(zip(users, items, strict=True)) == pairs and len(dataset.inter_feat) == 92_834
    names = dict(
        line.rstrip("\n").split("\t")[:2] for line in list(files.raw_lines(raw / "artists.dat.gz"))[1:]
    )
    assert {k: v[0] for k, v in recbole_texts(dataset, "title").items()} == {
        k: names[k].strip() for k in map(str, set(items))
    }
    links = (run.folder("lastfm") / "lastfm.net").read_text().splitlines()
    assert links[0] == "source_id:token\ttarget_id:token" and len(links) - 1 == len(
        list(files.raw_lines(raw / "user_friends.dat.gz"))
    )


def test_published_split_of_minionerec(convert, shared, recbole_dataset, files, tmp_path):
    raw = shared("amazon2018_minionerec")
    name = "Office_Products"
    rows = list(csv.reader(files.raw_lines(raw / f"valid__{name}_5_2016-10-2018-11.csv.gz")))
    parts = {"train": rows[:3001], "valid": [rows[0], *rows[3001:]]}
    for part, content in parts.items():  # the train file is not in the shared data: cut one from valid
        with open(tmp_path / f"{part}.csv", "w", newline="") as file:
            csv.writer(file).writerows(content)
    test = raw / f"test__{name}_5_2016-10-2018-11.csv.gz"
    inputs = ["--train", tmp_path / "train.csv", "--valid", tmp_path / "valid.csv", "--test", test]
    inputs += [
        "--items",
        raw / f"index__{name}.item.json.gz",
        "--index",
        raw / f"index__{name}.index.json.gz",
    ]
    run = convert("minionerec", *inputs, "--quiet")
    dataset = recbole_dataset(
        run.folder("office"), ROOT / "properties" / "dataset" / "office.yaml", sequential=True
    )
    parts["test"] = list(csv.reader(files.raw_lines(test)))
    for split, part in zip(dataset.build(), parts.values(), strict=True):
        read = split.inter_feat
        tokens = dataset.field2id_token["item_id"]
        histories = [[str(tokens[i]) for i in row if i] for row in read["item_id_list"].tolist()]
        expected = [[r[0], [str(i) for i in json.loads(r[3])], r[4]] for r in part[1:]]
        users = dataset.id2token("user_id", read["user_id"].numpy())
        targets = dataset.id2token("item_id", read["item_id"].numpy())
        assert digest([[u, h, t] for u, h, t in zip(users, histories, targets, strict=True)]) == digest(
            expected
        )
    assert dataset.item_num - 1 == 3_459
    codes = json.loads((run.folder("office") / "office.index.json").read_text())
    assert codes == json.loads("".join(files.raw_lines(raw / f"index__{name}.index.json.gz")))


def test_stitched_sequences_of_minionerec(convert, shared, files):
    raw = shared("amazon2018_minionerec")
    for name, short in (("Office_Products", "office"), ("Industrial_and_Scientific", "industrial")):
        inputs = [f"--{part}={raw}/{part}__{name}_5_2016-10-2018-11.csv.gz" for part in ("valid", "test")]
        inputs += [f"--items={raw}/index__{name}.item.json.gz", "--protocol=leave-one-out"]
        run = convert("minionerec", *inputs, "--quiet")
        expected = json.loads("".join(files.raw_lines(raw / f"{name}.stitched_partial_sequences.json.gz")))
        written = files.sequences(run.folder(short) / f"{short}.inter")
        assert written == {user: list(map(str, items)) for user, items in expected.items()}


def test_collm_table(convert, shared, recbole_dataset, files):
    raw = shared("movielens_1m_partial") / "collm_ml1m_interactions.csv.gz"
    columns = [
        "--user",
        "uid",
        "--item",
        "iid",
        "--time",
        "timestamp",
        "--title",
        "title",
        "--rating",
        "label",
    ]
    run = convert(
        "table", "--input", raw, *columns, "--name", "collm", "--protocol", "global-time", "--quiet"
    )
    dataset = recbole_dataset(run.folder("collm"))
    rows = list(csv.reader(files.raw_lines(raw)))[1:]
    assert digest(recbole_events(dataset)) == digest(stable([[r[0], r[1], float(r[3])] for r in rows]))
    read = {k: v[0] for k, v in recbole_texts(dataset, "title").items()}
    assert read == {r[1]: r[4].strip() for r in rows}


def test_groceries_without_header_and_with_day_first(convert, shared, files):
    raw = shared("groceries_baskets") / "Groceries_dataset.csv.gz"
    columns = [
        "--no-header",
        "--user",
        "1",
        "--item",
        "3",
        "--time",
        "2",
        "--time-format",
        "%d-%m-%Y",
        "--title",
        "3",
    ]
    run = convert("table", "--input", raw, *columns, "--name", "groceries", "--quiet")
    facts = run.card("groceries")["statistics"]
    assert (facts["users"], facts["items"], facts["interactions"]) == (3_898, 167, 38_765)
    assert facts["first_time"] == "2014-01-01T00:00:00Z"
    settings_text = (run.folder("groceries") / "groceries.yaml").read_text()
    assert "filter_seen: False" in settings_text  # 15 % of the last events are repeats


TITLES = st.text(alphabet=st.characters(codec=None), max_size=25) | st.text(
    alphabet="\"'|#, \\\t\nab0" + string.punctuation, max_size=25
)


@settings(max_examples=12)
@given(st.lists(TITLES, min_size=1, max_size=40))
def test_any_text_survives_recbole(titles):
    """Quotes, separators, comment marks, double spaces: what the cleaner lets through comes back."""
    from tempfile import TemporaryDirectory

    import pandas as pd

    from dataset_adapters.atomic import write_features
    from dataset_adapters.events import FeatureTable, Field

    clean = TextCleaner(unescape=False)
    table = FeatureTable([f"i{n}" for n in range(len(titles))], [Field("title"), Field("names", "token_seq")])
    for n, title in enumerate(titles):
        table.put(f"i{n}", (clean.text(title), clean.texts([title, "b c"])))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.item"
        write_features(path, "item_id", table)
        # the very call of recbole.data.dataset.Dataset._load_feat
        read = pd.read_csv(path, delimiter="\t", dtype=str, encoding="utf-8", engine="python")
    assert read.iloc[:, 1].fillna("").tolist() == [row[0] for row in table.rows.values()]
    lists = [list(filter(None, cell.split("|"))) for cell in read.iloc[:, 2]]
    assert lists == [row[1] for row in table.rows.values()]
