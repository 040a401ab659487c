"""Tables, pictures and the page that are made from a record."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from recbole_sigma.benchmark import plots, rebuild_report, report, tables
from recbole_sigma.benchmark.folder import RunFolder
from recbole_sigma.benchmark.records import write_record
from recbole_sigma.benchmark.results import collect, summarize
from recbole_sigma.commands.main import main
from recbole_sigma.values import UserError
from tests.browser import CHROMIUM, Browser

NASTY = r"A_100% & <b>\x{y}^~#$|"


def make_record() -> dict:
    """Four rows, two seeds, 60 users; the second row is far better than the first."""
    rng = np.random.default_rng(0)
    cells = []
    rows = [("Pop", "Pop", 0.1), (NASTY, "SIGMA", 0.7), ("SIGMA-top1", "SIGMA", 0.5), ("SIGMA", "SIGMA", 0.6)]
    for name, base, share in rows:
        for seed in (1, 2):
            places = np.where(rng.random(60) < share, rng.integers(1, 11, 60), 0)
            cells.append(
                {
                    "row": {"name": name, "base": base, "values": {"k": 1}, "why": "because", "source": "x"},
                    "seed": seed,
                    "training": f"{'SIGMA' if name == 'SIGMA-top1' else name}-{seed}",
                    "dataset": "small",
                    "commit": "0123456789abcdef",
                    "filter_seen": True,
                    "places": {"judged": 0, "places": places.tolist()},
                    "test_result": {
                        f"{m}@{k}": float(np.mean((places > 0) & (places <= k)))
                        for m in ("hit", "ndcg")
                        for k in (1, 5, 10, 20)
                    },
                    "valid_result": {},
                    "intra_list_distance@10": 0.3 + share / 10,
                    "weights": {"shared": "decoding" if name == "SIGMA-top1" else None},
                    "history": [
                        {"epoch": e, "train_cpu_seconds": 1.0, "valid": {"ndcg@10": e * share}}
                        for e in range(3)
                    ],
                    "seconds": {"total": 9.0, "cpu": 8.0, "cpu_data": 1.0, "cpu_model": 1.0},
                    "parameters": 1000,
                    "peak_memory": {"resident_mb": 300},
                    "versions": {"python": "3.11"},
                    "machine": {"gpu": None, "cpus": 2, "threads": 1, "platform": "Linux"},
                    "protocol": {
                        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO"},
                        "candidates": "full catalogue",
                        "history": 50,
                        "ties": "by id",
                    },
                    "config": {"note": "<script>alert(1)</script>"},
                }
            )
    judged = {"users": list(range(1, 61)), "targets": [3] * 60, "train_counts": [0, 4, 30] * 20}
    return {
        "dataset": ["small"],
        "created": "now",
        "commit": None,
        "notes": [],
        "failed": [],
        "judged": [judged],
        "cells": cells,
        "table": summarize(cells),
    }


@pytest.fixture
def record() -> dict:
    return make_record()


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A report with a failed cell; drawing takes seconds, so once."""
    folder = tmp_path_factory.mktemp("report")
    failed = [{"row": {"name": "<i>"}, "seed": 1, "filter_seen": True, "error": "<img src=x>"}]
    report.write_report(folder, {**make_record(), "failed": failed})
    return folder


@pytest.fixture
def no_plots(monkeypatch) -> None:
    monkeypatch.setattr(plots, "available", lambda: False)


def test_ranks() -> None:
    assert tables.ranks([0.3, 0.5, 0.5, 0.4, 0.1]) == [0, 1, 1, 2, 0] and tables.ranks([1.0]) == [1]


def test_the_note_says_what_one_seed_cannot_tell(record) -> None:
    report.add_significance(record)
    assert "one seed" not in tables.footnote(record, True)
    record["table"][-1]["seeds"] = [1]
    assert "another training run" in tables.footnote(record, True)
    record["significance"] = []  # without a comparison there is no interval to misread
    assert "one seed" not in tables.footnote(record, True)


def test_markdown_and_latex(written) -> None:
    text = (written / "table.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1, (
        "every line has the same columns"
    )
    assert lines[0].startswith("| model | HR@1") and "**0." in lines[3] and "<u>0." in text
    assert tables.BETTER in lines[3] and tables.BETTER not in lines[2]
    assert "worse than the best baseline, Pop: paired" in text and "Holm" in text
    tex = (written / "table.tex").read_text()
    assert r"A\_100\% \& \textless{}b\textgreater{}\textbackslash{}x\{y\}\textasciicircum{}" in tex
    body = tex[tex.index(r"\midrule") : tex.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 4
    assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {8}
    assert tex.count("{") - tex.count(r"\{") == tex.count("}") - tex.count(r"\}")
    assert r"\textbf{" in body and r"\underline{" in body and r"\textdagger" in body and "†" not in tex


class Page(HTMLParser):
    """Tags, attributes and whether every tag that opens also closes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "source", "br", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_one_file_without_requests_or_foreign_markup(written) -> None:
    text = (written / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert not page.open
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "img", "b", "i", "object", "image"}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            if name in ("src", "srcset", "href", "xlink:href", "action"):  # its own parts, and its own files
                assert value.startswith("#") or re.fullmatch(r"plots/[\w-]+\.pdf", value), (tag, name)
            assert not name.startswith("on"), (tag, name)
    assert not re.search(r"url\((?!#)", text) and "@import" not in text and "default-src 'none'" in text
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text
    assert "&lt;script&gt;" in text and "&lt;img src=x&gt;" in text
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)  # the one that the policy names
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in text.split("<style>")[0]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    stems = ["accuracy", "cost", "diversity", "learning", "popularity"]
    assert sorted(a["id"] for tag, a in page.tags if tag == "figure") == stems
    assert all(a["aria-label"] for tag, a in page.tags if tag == "svg")
    found = sorted(path.name for path in (written / "plots").iterdir())
    assert found == sorted(f"{stem}.{form}" for stem in stems for form in ("pdf", "svg"))
    assert (written / "plots/accuracy.pdf").read_bytes().startswith(b"%PDF")


def test_the_table_comes_first_and_how_it_came_about_is_folded(written) -> None:
    text = (written / "report.html").read_text()
    order = ["<h2>Results", "<table", "<figure", "<h2>Cost", "<summary>How these figures came about"]
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)
    assert "Versions:" not in text[: text.index("How these figures came about")]
    groups = re.findall(r'scope="rowgroup">([^<]*)<', text)
    assert groups == ["nothing trained", "SIGMA and its variants"]


def test_a_level_is_drawn_among_the_curves_of_its_own_policy(record) -> None:
    """The best value under one policy lies where no curve under the other is."""
    cells = []
    for policy, share in ((True, 1.0), (False, 0.1)):
        for cell in record["cells"]:
            scaled = [{**e, "valid": {"ndcg@10": e["valid"]["ndcg@10"] * share}} for e in cell["history"]]
            row = {**cell["row"], "name": cell["row"]["name"].replace("Pop", "PackedSASRec")}
            training = f"{cell['training']}-{policy}"
            cells.append({**cell, "row": row, "training": training, "filter_seen": policy, "history": scaled})
    both = {**record, "cells": cells, "table": summarize(cells), "significance": []}
    (level,) = plots.seconds_to_levels(both)
    assert level["filter_seen"]
    for policy in (True, False):
        with plots._style(dark=False):
            figure, _ = plots.learning(both, policy)
        dashed = [line for line in figure.axes[0].lines if line.is_dashed()]
        assert [float(line.get_ydata()[0]) for line in dashed] == ([level["level"]] if policy else [])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_rows_sort_and_leave_and_a_picture_is_saved(written) -> None:
    with Browser() as page:
        page.open(f"file://{written / 'report.html'}")
        last = "document.querySelectorAll('table.sorts tbody:last-child td:first-child')"
        names = f"[...{last}].map(c => c.innerText)"
        column = "[...document.querySelectorAll('table.sorts tbody:last-child td:nth-child(4)')]"
        before = page.run(names)
        page.run("document.querySelectorAll('table.sorts thead button')[3].click()")
        falling = page.run(f"{column}.map(c => parseFloat(c.innerText))")
        page.run("document.querySelectorAll('table.sorts thead button')[3].click()")
        rising = page.run(f"{column}.map(c => parseFloat(c.innerText))")
        assert falling == sorted(falling, reverse=True) and rising == sorted(falling) and len(falling) == 3
        assert sorted(page.run(names)) == sorted(before)
        page.run("document.querySelectorAll('#rows input')[1].click()")
        assert NASTY not in page.run(
            "[...document.querySelectorAll('table.sorts td')].filter("
            "c => c.offsetParent).map(c => c.innerText)"
        )
        shown = page.run(
            "['row-0-', 'row-1-'].map(id => [...document.querySelectorAll(`svg.light [id^=\"${id}\"]`)]"
            ".map(part => getComputedStyle(part).display !== 'none'))"
        )
        assert shown[0] and all(shown[0]) and shown[1] and not any(shown[1])
        page.run(
            "URL.createObjectURL = blob => { window.saved = blob.text(); return '#'; };"
            "document.querySelector('#cost .save button').click()"
        )
        saved = page.run("window.saved")
        assert saved.startswith("<svg") and "SIGMA-top1" in saved and "display: none" in saved
        assert not page.errors


def test_without_matplotlib_one_sentence(record, scratch: Path, no_plots) -> None:
    assert report.write_report(scratch, record) == [plots.MISSING]
    assert not (scratch / "plots").exists()
    text = (scratch / "report.html").read_text()
    assert "matplotlib is not installed" in text and "<svg" not in text


def test_pictures_of_one_record_are_always_the_same(record, monkeypatch) -> None:
    record["significance"], record["seconds_to_level"] = [], []
    monkeypatch.setattr(plots, "_PICTURES", {"cost": plots.cost})
    one, two = plots.draw(record)["cost"], plots.draw(record)["cost"]
    assert one == two and one.light != one.dark


def test_a_record_of_many_rows_and_of_none(record, scratch: Path) -> None:
    many = []
    for i in range(30):
        many += [{**cell, "row": {**cell["row"], "name": f"row {i}"}} for cell in record["cells"][:2]]
    full = {**record, "cells": many, "table": summarize(many), "significance": [], "seconds_to_level": []}
    assert "the 8 best rows" in plots.draw(full)["popularity"].caption
    empty = {**record, "cells": [], "table": [], "judged": [], "dataset": []}
    report.write_report(scratch, empty)
    assert "no finished cell" in (scratch / "report.html").read_text()


def test_metrics_that_are_not_the_usual_ones(record, scratch: Path, no_plots) -> None:
    for cell in record["cells"]:
        cell["test_result"] = {"recall@3": 0.1}
    record["table"] = summarize(record["cells"])
    report.write_report(scratch, record)
    assert "| model | RECALL@3 |" in (scratch / "table.md").read_text()


def test_commands_that_end_together_are_all_kept(planted, scratch: Path, monkeypatch, no_plots) -> None:
    """Each collects before the others have written results.json, as runs on several cards or cores do."""
    columns = "--load_col={inter: [user_id, item_id, timestamp]}"
    rest = ["--dataset=planted", "--quiet", "--output=o", f"--data_path={planted['data_path']}", columns]

    def typed(models: str) -> list[str]:
        words = ["benchmark", f"--models={models}", *rest]
        monkeypatch.setattr(sys, "argv", ["x", *words])
        return words

    assert main(typed("Pop")) == 0
    folder, old = RunFolder("o"), Path("o/results.json").read_bytes()
    for models in ("WindowItemKNN", "HistoryEASE", "WindowItemKNN"):
        typed(models)
        record = collect(folder, SimpleNamespace(cells=[], notes=[]))
        assert record["commands"][-1][2] == f"--models={models}"
        Path("o/results.json").write_bytes(old)  # another process ends later, and knew less
    kept = [words[2].removeprefix("--models=") for words in rebuild_report("o")["commands"]]
    assert kept == ["Pop", "HistoryEASE", "WindowItemKNN"]  # one typed again moves to the end


def test_the_report_command_makes_everything_again(planted, scratch: Path, capsys, no_plots) -> None:
    argv = ["benchmark", "--models=Pop,WindowItemKNN", "--dataset=planted", "--quiet", "--output=o"]
    columns = "--load_col={inter: [user_id, item_id, timestamp]}"
    assert main([*argv, f"--data_path={planted['data_path']}", columns]) == 0
    before = json.loads(Path("o/results.json").read_text())
    assert before["significance"][0]["reference"] == "WindowItemKNN"
    assert "worse than the best baseline, W" in Path("o/table.md").read_text()
    assert len(before["commands"]) == 1 and before["commands"][0][0] == "run_recbole_sigma.py"
    (Path("o") / "report.html").unlink()
    assert main(["report", "--output=o", "--reference=Pop"]) == 0
    after = json.loads(Path("o/results.json").read_text())
    assert after["significance"][0]["reference"] == "Pop" and Path("o/report.html").is_file()
    assert "worse than Pop: paired" in Path("o/table.md").read_text()
    assert after["commands"] == before["commands"]  # how the numbers came about, not how they were shown
    for models, expected in (
        ("WindowItemKNN,Pop", ["WindowItemKNN", "Pop"]),
        ("Pop, WindowItemKNN", ["Pop", "WindowItemKNN"]),
    ):
        after["commands"] = [
            ["run_recbole_sigma.py", "benchmark", "--models=SIGMA-*"],
            ["x", f"--models={models}"],
        ]
        after.pop("sha256", None)
        write_record(Path("o/results.json"), after)
        assert [row["model"] for row in rebuild_report("o")["table"]] == expected  # as the commands name them
    Path("o/results.json").write_text("{}")
    assert "the commands before this one are not known" in rebuild_report("o")["notes"][-2]
    Path("o/results.json").unlink()
    assert main(["report", "--output=o"]) == 0
    assert json.loads(Path("o/results.json").read_text())["commands"] == before["commands"]
    assert after["cells"] == before["cells"] and "report: o/report.html" in capsys.readouterr().out
    assert main(["report", "--output=nowhere"]) == 2 and not Path("nowhere").exists()
    with pytest.raises(UserError, match="--reference=Popp is no row"):
        rebuild_report("o", "Popp")
    assert main([*argv[:-1], "--output=p", "--reference=Popp"]) == 2 and not Path("p").exists()


def test_settings_show_once_what_rows_share() -> None:
    record = make_record()
    for cell in record["cells"]:
        cell["config"] = {"epochs": 3, "seen": True if cell["row"]["name"] == "Pop" else 1}
        if cell["row"]["name"] == "SIGMA":
            cell["config"]["tau"] = 0.07
    blocks = re.findall(r"<summary>([^<]*)</summary><pre>([^<]*)</pre>", report._settings(record))
    assert [text for _, text in blocks] == [
        "epochs: 3",
        "seen: true",
        "seen: 1",
        "seen: 1",
        "seen: 1\ntau: 0.07",
    ]
    assert (
        blocks[0][0] == "Every row" and blocks[1][0].startswith("Pop") and blocks[4][0].startswith("SIGMA,")
    )
    record["cells"] = record["cells"][:1]
    assert [
        text for _, text in re.findall(r"<summary>([^<]*)</summary><pre>([^<]*)", report._settings(record))
    ] == ["epochs: 3\nseen: true"]


@pytest.mark.parametrize("name", ["A", "a row with a rather long name+memory+no-APF"])
def test_legends_stay_on_the_paper(name: str) -> None:
    figure, (axis,) = plots._figure(8.4, 4.8)
    for i in range(17):
        axis.plot([0, 1], [i, 1], label=f"{name} {i}")
    plots._legend(axis, 17)
    figure.canvas.draw()
    box, paper = figure.legends[0].get_window_extent(), figure.bbox
    assert len(figure.legends) == 1
    assert box.x0 >= 0 and box.x1 <= paper.width and box.y0 >= 0
    assert axis.get_window_extent().height > 0.5 * 4.8 * figure.dpi


def test_ticks_of_a_logarithmic_axis_are_plain_numbers() -> None:
    """Also those that matplotlib makes while it draws, past the settings under which the figure was made."""
    for seconds in ((2.0, 20.0), (3.0, 4.0), (0.1, 4000.0)):
        with plots._style(dark=False):
            figure, (axis,) = plots._figure(4, 3)
            axis.plot(seconds, (0.1, 0.2))
            plots._log_scale(axis)
        figure.canvas.draw()
        shown = [tick.get_text() for tick in axis.get_xticklabels(which="both") if tick.get_text()]
        assert shown
        for text in shown:
            float(text.replace("\N{MINUS SIGN}", "-"))
