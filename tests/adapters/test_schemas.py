"""Raw schemas that the shared data do not hold in full, generated as their documentation has them."""

from __future__ import annotations

import gzip
import json

import yaml


def packed(path, rows):
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def test_amazon_2023(convert, tmp_path, files):
    reviews = [
        {
            "rating": 4.0,
            "title": "review title",
            "text": "SECRET",
            "images": [],
            "asin": "CHILD",
            "parent_asin": f"P{n % 6}",
            "user_id": f"U{n % 5}",
            "timestamp": 1_588_687_728_923 + n,
            "helpful_vote": 0,
            "verified_purchase": True,
        }
        for n in range(60)
    ]
    meta = [
        {
            "main_category": "All Beauty",
            "title": "Howard &amp; Co",
            "average_rating": 4.8,
            "rating_number": 10,
            "features": ["x"],
            "description": ["first", "second"],
            "price": None,
            "store": "Howard",
            "categories": [] if n else ["Beauty", "Hair, Care"],
            "details": {"Brand": "z"},
            "parent_asin": f"P{n}",
            "bought_together": None,
        }
        for n in range(6)
    ]
    inputs = [
        packed(tmp_path / "All_Beauty.jsonl.gz", reviews),
        packed(tmp_path / "meta_All_Beauty.jsonl.gz", meta),
    ]
    run = convert("amazon2023", "--input", *inputs)
    name = "amazon2023-all-beauty"
    header, rows = files.atomic(run.folder(name) / f"{name}.item")
    assert rows[0] == ["P0", "Howard & Co", "Howard", "Beauty|Hair, Care", "first second"]
    assert rows[1][3] == "All Beauty"
    header, rows = files.atomic(run.folder(name) / f"{name}.inter")
    assert header == ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    assert rows[0] == ["U0", "P0", "4", "1588687728.923"]
    assert "SECRET" not in "".join(p.read_text() for p in run.folder(name).iterdir())


def test_amazon_2023_rating_csv(convert, tmp_path, files):
    text = "user_id,parent_asin,rating,timestamp\n" + "".join(
        f"U{n % 5},P{n % 6},5.0,{1_588_687_728_923 + n}\n" for n in range(60)
    )
    (tmp_path / "All_Beauty.csv").write_text(text)
    run = convert("amazon2023", "--input", tmp_path / "All_Beauty.csv")
    assert run.card("amazon2023-all-beauty")["statistics"]["interactions"] == 60
    assert "no --meta was given" in run.out


def test_amazon_2018_noise(convert, tmp_path, files):
    reviews = [
        {"reviewerID": f"U{n % 5}", "asin": f"A{n % 6}", "unixReviewTime": 1_500_000_000 + 86_400 * n}
        for n in range(60)
    ]
    meta = [
        {
            "asin": "A0",
            "title": 'var aPageStart = (new Date()).getTime(); "x"',
            "category": ["Home", "Bedding", "<span>a</span></span>", "junk"],
        },
        {
            "asin": "A1",
            "title": "Sheet",
            "category": ["Home", "Bedding"],
            "brand": "<span class='x'>Acme</span> &amp; Co",
            "also_buy": ["A0"],
            "rank": "5 in Home",
        },
    ]
    inputs = [packed(tmp_path / "Home_5.json.gz", reviews), packed(tmp_path / "meta_Home.json.gz", meta)]
    run = convert("amazon2018", "--input", *inputs)
    rows = dict(
        (row[0], row[1:]) for row in files.atomic(run.folder("amazon2018-home") / "amazon2018-home.item")[1]
    )
    assert rows["A0"] == ["", "", "Home|Bedding", ""] and rows["A1"] == [
        "Sheet",
        "Acme & Co",
        "Home|Bedding",
        "",
    ]
    changes = run.card("amazon2018-home")["rows"]["text_changes"]
    assert (
        changes["titles_of_page_code_emptied"] == changes["html_tags_removed"] == 1
        and changes["category_html_cut"] == 1
    )


def test_keywords_of_idgenrec(convert, shared, files):
    raw = shared("amazon2014_sports")
    inputs = [
        raw / f"{kind}_Sports_and_Outdoors{end}.recon.json.gz"
        for kind, end in (("reviews", "_5"), ("meta", ""))
    ]
    inputs.append(raw / "idgenrec_textual_ids.txt.gz")
    run = convert("amazon2014", "--input", *inputs, "--until", "2011-01-01", "--k-core", 2, "--quiet")
    card = run.card("amazon-sports")
    assert card["roles"]["text_fields"] == ["brand", "categories", "keywords"]
    assert card["items"]["share_filled"]["keywords"] == 1 and card["items"]["share_filled"]["title"] == 0


def test_yelp(convert, tmp_path, files):
    reviews = [
        {
            "review_id": f"r{n}",
            "user_id": f"U{n % 5}",
            "business_id": f"B{n % 6}",
            "stars": 4.0,
            "useful": 0,
            "funny": 0,
            "cool": 0,
            "text": "SECRET",
            "date": f"20{18 + n % 2}-05-{1 + n % 28:02d} 10:11:12",
        }
        for n in range(120)
    ]
    business = [
        {
            "business_id": f"B{n}",
            "name": "Café | Bar",
            "city": "Reno",
            "stars": 4.5,
            "review_count": 99,
            "categories": "Books, Mags, Music & Video, Food" if n else None,
        }
        for n in range(6)
    ]
    inputs = [packed(tmp_path / "yelp_academic_dataset_review.json", reviews)]
    inputs += [packed(tmp_path / "yelp_academic_dataset_business.json", business)]
    run = convert("yelp", "--input", *inputs, "--since", "2019-01-01", "--until", "2020-01-01", "--k-core", 2)
    header, rows = files.atomic(run.folder("yelp") / "yelp.item")
    rows.sort()
    assert header == ["item_id:token", "title:token", "categories:token_seq", "city:token"]
    assert rows[0] == ["B1", "Café | Bar", "Books|Mags|Music & Video|Food", "Reno"]
    card = run.card("yelp")
    assert [s["interactions"] for s in card["steps"]] == [120, 60, 60]
    settings = yaml.safe_load((run.folder("yelp") / "yelp.yaml").read_text())
    assert settings["text_fields"] == ["title", "city"] or settings["category_field"] in (None, "categories")
    assert "SECRET" not in (run.folder("yelp") / "yelp.inter").read_text()


def test_movielens_1m_and_10m(convert, tmp_path, files):
    for name, encoding in (("ml-1m", "latin-1"), ("ml-10m", "utf-8")):
        folder = tmp_path / name
        folder.mkdir()
        ratings = [(n % 5 + 1, n % 7 + 1, 978_300_000 + n // 2) for n in range(70)]
        (folder / "ratings.dat").write_text("".join(f"{u}::{i}::3.5::{t}\n" for u, i, t in ratings))
        movies = "1::Misérables, Les: A::B (1995)::Drama|Sci-Fi\n2::Blue (1993)::(no genres listed)\n"
        (folder / "movies.dat").write_bytes(movies.encode(encoding))
        if name == "ml-1m":
            people = "".join(f"{n}::F::{age}::{n}::48067\n" for n, age in enumerate((1, 18, 25, 50, 56), 1))
            (folder / "users.dat").write_text(people)
        run = convert("movielens", "--input", folder, "--duplicates", "exact")
        rows = dict((row[0], row[1:]) for row in files.atomic(run.folder(name) / f"{name}.item")[1])
        assert rows["1"] == ["Misérables, Les: A::B (1995)", "1995", "Drama|Sci-Fi"]
        assert rows["2"] == ["Blue (1993)", "1993", ""] and rows["3"] == ["", "", ""]
        expected: dict[str, list[str]] = {}
        for user, item, _ in ratings:
            expected.setdefault(str(user), []).append(str(item))
        assert files.sequences(run.folder(name) / f"{name}.inter") == expected
    people = files.atomic(tmp_path / "dataset" / "ml-1m" / "ml-1m.user")[1]
    assert people[0] == ["1", "under 18", "F", "academic or educator", "48067"]


def test_s3rec_with_attributes_and_with_titles(convert, tmp_path, files):
    (tmp_path / "Tiny.txt").write_text("1 1 2 3\n2 3 1\n")
    (tmp_path / "Tiny_item2attributes.json").write_text(json.dumps({"1": [1, 2], "2": [2], "9": [1]}))
    maps = {
        "user2id": {"ANN": "1", "BOB": "2"},
        "item2id": {"A1": "1", "A2": "2", "A3": "3"},
        "id2attribute": {"1": "Acme", "2": "Hair | Care"},
    }
    (tmp_path / "Tiny_datamaps.json").write_text(json.dumps(maps))
    inputs = sorted(tmp_path.glob("Tiny*"))
    run = convert("s3rec", "--input", *inputs)
    assert files.sequences(run.folder("tiny") / "tiny.inter") == {
        "ANN": ["A1", "A2", "A3"],
        "BOB": ["A3", "A1"],
    }
    assert [row[2] for row in files.atomic(run.folder("tiny") / "tiny.inter")[1]] == ["1", "2", "3", "1", "2"]
    assert files.atomic(run.folder("tiny") / "tiny.item")[1] == [
        ["A1", "Acme|Hair / Care"],
        ["A2", "Hair / Care"],
        ["A3", ""],
    ]
    assert "timestamp is the position" in (run.folder("tiny") / "tiny.card.md").read_text()
    (tmp_path / "meta_Tiny.json").write_text(
        str({"asin": "A1", "title": "Gel", "brand": "Acme", "categories": [["Beauty", "Hair"]]}) + "\n"
    )
    run = convert("s3rec", "--input", *inputs, tmp_path / "meta_Tiny.json", "--overwrite")
    assert files.atomic(run.folder("tiny") / "tiny.item")[1][:2] == [
        ["A1", "Gel", "Acme", "Beauty|Hair", "Acme|Hair / Care"],
        ["A2", "", "", "", "Hair / Care"],
    ]
    settings = yaml.safe_load((run.folder("tiny") / "tiny.yaml").read_text())
    assert settings["text_fields"] == ["title", "brand", "categories"]


def test_table_with_files_of_its_own_for_items_and_users(convert, tmp_path, files):
    (tmp_path / "e.tsv").write_text(
        "who\twhat\twhen\tsearch\tstars\n"
        + "".join(f"{n % 3:02d}\tp{n % 4}\t{1_600_000_000 + n}\tred {n}\t{n % 5}.5\n" for n in range(40))
    )
    (tmp_path / "p.csv").write_text('id;name;maker;kind;Long Text\np0;"One; two";Acme;a>b;x\np1;Zwei;;c;\n')
    (tmp_path / "u.csv").write_text("who;Age Group;town\n00;18-24;Bern\n01;;Basel\n")
    columns = ["--user", "who", "--item", "what", "--time", "when", "--query", "search", "--rating", "stars"]
    texts = [
        "--title",
        "name",
        "--brand",
        "maker",
        "--category",
        "kind",
        "--category-separator",
        ">",
        "--text",
        "Long Text",
    ]
    files_in = [
        "--items",
        tmp_path / "p.csv",
        "--item-key",
        "id",
        "--users",
        tmp_path / "u.csv",
        "--profile",
        "Age Group,town",
    ]
    run = convert(
        "table",
        "--input",
        tmp_path / "e.tsv",
        *columns,
        *texts,
        *files_in,
        "--delimiter",
        "semicolon",
        "--name",
        "x",
    )
    assert run.code == 2 and "e.tsv:1: no column 'who'; the line looks separated by a tab" in run.err
    for name in ("p.csv", "u.csv"):
        path = tmp_path / name
        path.write_text(path.read_text().replace(";", "\t").replace('"One\t two"', '"One; two"'))
    run = convert(
        "table",
        "--input",
        tmp_path / "e.tsv",
        *columns,
        *texts,
        *files_in,
        "--delimiter",
        "tab",
        "--name",
        "x",
    )
    folder = run.folder("x")
    header, rows = files.atomic(folder / "x.item")
    assert header == ["item_id:token", "title:token", "brand:token", "category:token_seq", "long_text:token"]
    assert rows[:2] == [["p0", "One; two", "Acme", "a|b", "x"], ["p3", "", "", "", ""]]
    assert files.atomic(folder / "x.user")[1] == [
        ["00", "18-24", "Bern"],
        ["01", "", "Basel"],
        ["02", "", ""],
    ]
    assert files.atomic(folder / "x.inter")[1][0] == ["00", "p0", "0.5", "1600000000", "red 0"]
    settings = yaml.safe_load((folder / "x.yaml").read_text())
    assert settings["query_field"] == "query" and settings["profile_fields"] == ["age_group", "town"]
    assert settings["text_fields"] == ["title", "brand", "category", "long_text"]
