"""Rows of a table: models, shipped variants, the user's files, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_sigma.benchmark.variants import Row, read_variant, rows_of, shipped
from recbole_sigma.models import registry
from recbole_sigma.values import UserError

GOOD = "name: Mine\nbase: BPR\nvalues: {embedding_size: 8}\nwhy: smaller\nsource: me\n"


def test_words_become_rows(scratch: Path) -> None:
    (scratch / "mine.yaml").write_text(GOOD)
    (scratch / "more").mkdir()
    (scratch / "more/a.yaml").write_text(GOOD.replace("Mine", "A"))
    (scratch / "more/b.yaml").write_text(GOOD.replace("Mine", "B"))
    (scratch / "fast.yaml").write_text("learning_rate: 0.1\n")
    rows = rows_of(["Pop", " SIGMA-top1", "mine.yaml", "more/", "SASRec:fast.yaml", "BPR:mine.yaml"][:5])
    assert [(row.name, row.base) for row in rows] == [
        ("Pop", "Pop"),
        ("SIGMA-top1", "SIGMA"),
        ("Mine", "BPR"),
        ("A", "BPR"),
        ("B", "BPR"),
        ("SASRec-fast", "SASRec"),
    ]
    assert rows[1].values == {"decode_mode": "top1_prefix"} and rows[5].values == {"learning_rate": 0.1}
    assert rows_of(["BPR:mine.yaml"])[0] == Row("Mine", "BPR", {"embedding_size": 8}, "smaller", "me")
    with_memory = rows_of(["SIGMA-top1+memory", "BPR+memory"])
    assert [(row.name, row.base) for row in with_memory] == [
        ("SIGMA-top1+memory", "SIGMA"),
        ("BPR+memory", "BPR"),
    ]
    assert with_memory[0].values == {"decode_mode": "top1_prefix", "memory": "validation"}
    (both,) = rows_of(["SIGMA-paper+top1+SIGMA-no-KD+memory"])
    assert (both.name, both.base) == ("SIGMA-paper+top1+SIGMA-no-KD+memory", "SIGMA")
    assert both.values == {
        **shipped()["SIGMA-paper"].values,
        "decode_mode": "top1_prefix",
        "grounding_kd_weight": 0.0,
        "memory": "validation",
    }
    assert {row.name for row in rows_of(["SIGMA-*"])} == {n for n in shipped() if n.startswith("SIGMA-")}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["SIGMA-topp1"], "unknown model 'SIGMA-topp1'; nearest: SIGMA-top1"),
        (["SIGMA+topp1"], "'topp1' is neither 'memory' nor a shipped variant of SIGMA; nearest: top1"),
        (["BPR+top1"], "'top1' is neither 'memory' nor a shipped variant of BPR"),
        (["Pop", "Pop"], "has the row 'Pop' twice"),
        (["gone.yaml"], "gone.yaml does not exist"),
        (["gone/"], "the folder of variants gone/ does not exist"),
        (["SASRec:mine.yaml"], "is a variant of BPR, not of SASRec"),
        (["SASRecc:fast.yaml"], "unknown model 'SASRecc'; nearest: SASRec"),
        (["LightGCN-*"], "no shipped variant is named like 'LightGCN-*'"),
    ],
)
def test_words_that_mean_nothing(words, sentence, scratch: Path) -> None:
    (scratch / "mine.yaml").write_text(GOOD)
    (scratch / "fast.yaml").write_text("learning_rate: 0.1\n")
    with pytest.raises(UserError, match=sentence.replace("*", r"\*")):
        rows_of(words)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (GOOD + "extra: 1\n", "unknown field 'extra'"),
        (GOOD.replace("values", "value"), "unknown field 'value'; nearest: values"),
        ("name: x\nbase: BPR\n", "has no field 'values'"),
        (GOOD.replace("{embedding_size: 8}", "3"), "values must be keys over the base"),
        (GOOD.replace("{embedding_size: 8}", "{}"), "values must be keys over the base"),
        (GOOD.replace("{embedding_size: 8}", "{seed: 8}"), "seed cannot be set"),
        (GOOD.replace("Mine", "[1]"), "name must be text"),
        ("- 1\n", "holds a list"),
        ("a: [\n", "is not valid YAML"),
    ],
)
def test_files_that_are_no_variants(text, sentence, scratch: Path) -> None:
    (scratch / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match=sentence) as caught:
        read_variant(scratch / "bad.yaml")
    assert "bad.yaml" in str(caught.value)


def test_values_may_stand_in_a_property_file(scratch: Path) -> None:
    (scratch / "rows").mkdir()
    (scratch / "small.yaml").write_text("embedding_size: 8\n")
    (scratch / "rows" / "mine.yaml").write_text(GOOD.replace("{embedding_size: 8}", "../small.yaml"))
    assert read_variant(scratch / "rows" / "mine.yaml").values == {"embedding_size": 8}
    (scratch / "small.yaml").write_text("seed: 8\n")
    with pytest.raises(UserError, match="seed cannot be set"):
        read_variant(scratch / "rows" / "mine.yaml")
    (scratch / "small.yaml").unlink()
    with pytest.raises(UserError, match="small.yaml"):
        read_variant(scratch / "rows" / "mine.yaml")


def test_shipped_variants_are_complete_and_known() -> None:
    from recbole_sigma.run.config import RunConfig
    from recbole_sigma.settings.recipes import declared_keys

    for name, row in shipped().items():
        assert row.why and row.source, name
        assert registry.find_model(row.base) is not None, name
        config = RunConfig(row.base, "ml-100k", config_dict=row.values)
        base = RunConfig(row.base, "ml-100k")
        assert any(config[key] != base[key] for key in row.values) or name == "SASRec-CE", name
    assert "why" not in declared_keys() and "base" not in declared_keys()


def test_the_list_names_every_row_that_comes_with_the_package() -> None:
    from recbole_sigma.benchmark.variants import list_text
    from recbole_sigma.models.registry import MODELS

    lines = dict(line.split(maxsplit=1) for line in list_text().splitlines())
    assert lines.keys() == MODELS.keys() | shipped().keys() and all(lines.values())
    (row,) = rows_of(["ClosedForm"])
    assert row.why == lines["ClosedForm"] and row.source
