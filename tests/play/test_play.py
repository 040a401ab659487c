"""The page of ``play``: what it shows, who may ask it, and that a keyboard is enough."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_sigma.commands.main import main
from recbole_sigma.play.desk import MODE_TEXTS, Desk
from recbole_sigma.quick_start import run
from recbole_sigma.recommend.answers import Request
from recbole_sigma.recommend.recommender import Recommender
from recbole_sigma.values import UserError
from tests import planted as scenes
from tests.browser import CHROMIUM, Browser


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checkpoints of a SIGMA and a PackedSASRec on the cycle, by model."""
    root = tmp_path_factory.mktemp("play")
    scenes.write_cycle(root / "cycle", users=32, length=10)
    small = {"epochs": 2, "grounding_steps": 2, "MAX_ITEM_LIST_LENGTH": 6}
    found = {}
    for model, more in (("SIGMA", small), ("PackedSASRec", {**scenes.tiny("PackedSASRec"), "epochs": 1})):
        values = scenes.cycle_config(root, root, **more)
        found[model] = run(model, "cycle", config_dict=values)["checkpoint"]
    return found


@pytest.fixture(scope="module")
def desk(trained: dict[str, str]) -> Desk:
    return Desk([(name, path, Recommender.load(path)) for name, path in trained.items()])


HISTORY = ["blue thing number 3", "blue thing number 4"]


def test_every_column_is_the_models_own_list(desk: Desk) -> None:
    found = desk.lists({"history": HISTORY, "k": 5})["columns"]
    assert [column["name"] for column in found] == ["SIGMA", "PackedSASRec"]
    for column, (_, recommender) in zip(found, ((c.name, c.recommender) for c in desk.sets["models"])):
        expected = recommender.recommend(history=HISTORY, k=5)
        assert [row["item"] for row in column["items"]] == [row.item for row in expected]
        assert column["history"] == HISTORY


def test_modes_are_those_of_a_model_loaded_that_way(desk: Desk, trained) -> None:
    chosen = "decoding modes of SIGMA"
    columns = desk.lists({"history": HISTORY, "set": chosen, "k": 6})["columns"]
    assert [column["name"] for column in columns] == list(MODE_TEXTS)
    for column in columns:
        alone = Recommender.load(trained["SIGMA"], {"decode_mode": column["name"]})
        (answer,) = alone.answer([Request(history=HISTORY)], 6)
        assert [row["item"] for row in column["items"]] == [row.item for row in answer.items]
    again = desk.lists({"history": HISTORY, "k": 6})["columns"][0]  # the model has its own mode back
    own = Recommender.load(trained["SIGMA"]).recommend(history=HISTORY, k=6)
    assert [row["item"] for row in again["items"]] == [row.item for row in own]


def test_prefix_shares_are_the_sums_of_the_items(desk: Desk) -> None:
    recommender = desk.first
    (column, _) = desk.lists({"history": HISTORY})["columns"]
    row = recommender.row_of(Request(history=HISTORY))
    share = recommender.maker.log_probabilities([row])[0].double().exp().numpy()
    share[row.forbidden] = 0
    share[0] = 0
    sums: dict[str, float] = {}
    for item in range(1, len(share)):
        sums[recommender.prefix(item)] = sums.get(recommender.prefix(item), 0.0) + share[item] / share.sum()
    assert column["prefixes"][0]["share"] == max(p["share"] for p in column["prefixes"])
    for prefix in column["prefixes"]:
        assert prefix["share"] == pytest.approx(sums[prefix["prefix"]], rel=1e-6)
    assert np.isclose(sum(p["share"] for p in column["prefixes"]), 1.0)  # the cycle has few prefixes
    best = desk.lists({"history": HISTORY, "set": "decoding modes of SIGMA"})["columns"][-1]
    assert best["name"] == "top1_prefix" and best["prefixes"][0]["share"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "asked, sentence",
    [
        ({}, "pick a user, or type at least one title"),
        ({"user": "nobody"}, "has no user 'nobody'"),
        ({"history": ["no such thing"]}, "no such thing"),
        ({"history": "text"}, "give a list of titles"),
        ({"user": 3}, "user: give text"),
        ({"user": "u1", "k": 0}, "from 1 to 50"),
        ({"user": "u1", "k": True}, "from 1 to 50"),
        ({"user": "u1", "set": "x"}, "no set of columns"),
        ({"user": "u1", "instruction": "x" * 2000}, "one sentence"),
    ],
)
def test_what_a_person_types_wrong_is_one_sentence(desk: Desk, asked, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        desk.lists(asked)


def test_titles_are_proposed(desk: Desk) -> None:
    assert desk.titles("BLUE thing number 3") == ["blue thing number 3"]
    assert len(desk.titles("thing")) == 12 and desk.titles(" ") == []


# --- over HTTP ---


@pytest.fixture(scope="module")
def address(desk: Desk) -> Iterator[str]:
    pytest.importorskip("starlette")
    uvicorn = pytest.importorskip("uvicorn")
    from recbole_sigma.play.server import app, listen

    where = listen()
    server = uvicorn.Server(uvicorn.Config(app(desk), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [where]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{where.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    where.close()


def asked(url: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        text = error.read().decode()
        return error.code, json.loads(text) if text.startswith("{") else text


def test_only_this_machines_own_page_may_ask(address: str, desk: Desk) -> None:
    body = {"history": HISTORY}
    status, found = asked(f"{address}/api/lists", body)
    assert status == 200 and found == json.loads(json.dumps(desk.lists(body)))
    assert asked(f"{address}/api/lists", body, Host="evil.example")[0] == 400  # a name that points here
    assert asked(f"{address}/api/about", None, Host="evil.example")[0] == 400
    # what a form of another site can send without asking first
    assert asked(f"{address}/api/lists", body, **{"Content-Type": "text/plain"})[0] == 415
    assert asked(f"{address}/api/lists", [1])[0] == 400
    assert asked(f"{address}/api/lists", {"user": "x" * 200_000})[0] == 400
    assert asked(f"{address}/api/lists", {})[1] == {"error": "pick a user, or type at least one title"}
    with urllib.request.urlopen(address, timeout=30) as answer:
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        page = answer.read().decode()
    assert "http" not in page and "<script>" not in page  # nothing from elsewhere, nothing inline


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_by_keyboard_in_a_browser(address: str, desk: Desk) -> None:
    with Browser() as page:
        page.open(address)
        page.wait("document.activeElement.id === 'title'")
        for title in HISTORY:
            page.type(title)
            page.wait("document.querySelectorAll('#found li').length === 1")
            page.press("Enter")
        page.type("zzz")
        page.press("Enter")
        page.wait("document.getElementById('said').textContent.startsWith('No title holds')")
        page.run("document.getElementById('title').value = ''")
        for _ in range(10):
            page.press("Tab")
            if page.run("document.activeElement.id") == "set":
                break
        page.press("ArrowDown")
        page.press("Tab")
        page.press("Enter")
        page.wait("document.querySelectorAll('section').length === 3")
        shown = page.run(
            "[...document.querySelectorAll('section')].map(s => [...s.querySelectorAll('td:nth-child(2)')]"
            ".map(t => t.firstChild.textContent))"
        )
        expected = desk.lists({"history": HISTORY, "set": "decoding modes of SIGMA"})["columns"]
        assert shown == [[row["title"] for row in column["items"]] for column in expected]
        assert page.run("document.querySelectorAll('.bar').length") > 0
        wide = page.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert wide and not page.errors


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_an_address_can_hold_a_request(address: str) -> None:
    with Browser() as page:
        page.open(f"{address}/?user=u1&k=3")
        page.wait("document.querySelectorAll('section').length === 2")
        assert page.run("document.querySelectorAll('section tr').length") == 6


# --- typed ---


def test_mistakes_are_sentences(trained, capsys) -> None:
    for words, sentence in (
        ([], "play needs --checkpoint"),
        (["--checkpoint=a,b,c,d,e"], "name 1 to 4 files"),
        (["--checkpoint=latest"], "no trained model lies below"),
        ([f"--checkpoint={trained['SIGMA']}", "--port=99999"], "up to 65535"),
        ([f"--checkpoint={trained['SIGMA']}", "--prot=1"], "nearest: port"),
    ):
        assert main(["play", *words]) == 2
        assert sentence in capsys.readouterr().err


def test_without_the_extra_one_sentence(trained, capsys, monkeypatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    gone = {"starlette": None}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: gone.get(name, real(name, *a)))
    monkeypatch.setattr("recbole_sigma.play.server.serve", lambda *_: None)
    gone.update(uvicorn=None)
    assert main(["play", f"--checkpoint={trained['SIGMA']}"]) == 2
    assert "play needs starlette and uvicorn: pip install starlette uvicorn" in capsys.readouterr().err


def test_models_of_two_data_sets_are_refused(desk: Desk) -> None:
    class Other:
        config = {"dataset": "other"}

    with pytest.raises(UserError, match="of one data set, not of cycle and other"):
        Desk([("a", "", desk.first), ("b", "", Other())])  # type: ignore[list-item]


def test_the_verb_says_where_the_page_is(trained, capsys, monkeypatch, scratch: Path) -> None:
    pytest.importorskip("uvicorn")
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("recbole_sigma.play.server.serve", lambda desk, where: where.close())
    paths = ",".join(trained.values())
    assert main(["play", f"--checkpoint={paths}"]) == 0
    text = capsys.readouterr().out
    assert "SIGMA, PackedSASRec: http://127.0.0.1:" in text and opened[0] in text
