"""The page that travels with a model: what it is, how to load it, how it was judged, and how to repeat it.

Every figure on it comes from the record of the run that made the weights.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import yaml

from recbole_sigma.machine.files import checked_json, reading
from recbole_sigma.models.registry import MODELS
from recbole_sigma.values import UserError

_AGAIN = "run the command that wrote it again"
SHOWN = ("hit@10", "ndcg@10", "mrr@10")


def record_of(checkpoint: Path, results: Path | None = None) -> dict[str, Any] | None:
    """What is known about how a checkpoint fared.

    Args:
        checkpoint: its file.
        results: a results.json; None looks at those in the folders of the checkpoint.

    Returns:
        ``test``, ``seed``, ``row``, ``protocol``, ``command``, ``commit``, ``versions``, ``seconds`` and
        ``table`` (the rows judged beside it); None where no record names the checkpoint.

    Raises:
        UserError: the results that were named do not hold this checkpoint.
    """
    if results is not None:
        if not results.is_file():
            raise UserError(f"--results={results} does not exist")
        found = _record(results, checkpoint)
        if found is None:
            raise UserError(f"--results={results} holds no run that wrote {checkpoint}")
        return found
    near = [checkpoint.parent.parent / "results.json"]  # of a benchmark
    for folder in ("results", "smoke"):
        near += sorted((checkpoint.parent / folder).glob("*.json"), reverse=True)
    return next((found for path in near if path.is_file() and (found := _record(path, checkpoint))), None)


def _record(path: Path, checkpoint: Path) -> dict[str, Any] | None:
    with reading(path, _AGAIN):
        content = checked_json(path.read_bytes())
        cells = content.get("cells", []) if isinstance(content, dict) else []
        for cell in cells:
            if _is_of(cell, checkpoint):
                words = content.get("command") or (content.get("commands") or [[]])[-1]
                return {
                    "row": cell["row"]["name"] if isinstance(cell.get("row"), dict) else cell["model"],
                    "seed": cell["seed"],
                    "test": cell["test_result"],
                    "protocol": cell.get("protocol") or content["protocol"],
                    "command": words if isinstance(words, str) else _typed(list(map(str, words))),
                    "commit": cell.get("commit") or content.get("commit"),
                    "versions": cell.get("versions") or content.get("versions"),
                    "seconds": cell["seconds"],
                    "users": len(cell["places"]["targets"]) if "targets" in cell.get("places", {}) else None,
                    "table": content["table"],
                }
    return None


def _typed(words: list[str]) -> str:
    """A command as a person types it, without the folders of one machine."""
    program = Path(words[0]).name if words else "recbole-sigma"
    program = "recbole-sigma" if program == "__main__.py" else program
    return shlex.join([*(["python"] if program.endswith(".py") else []), program, *words[1:]])


def _is_of(cell: dict[str, Any], checkpoint: Path) -> bool:
    """Whether a cell was judged with a checkpoint: by the file's name, or by the key in the name of a row."""
    named = cell.get("checkpoint")
    if named is not None:
        return Path(named).name == checkpoint.name
    key = str(cell.get("key", ""))
    return checkpoint.suffix == ".json" and checkpoint.stem.endswith(key[:16]) and len(key) >= 16


def card(meta: dict[str, Any], record: dict[str, Any] | None, with_data: bool) -> str:
    """The page.

    Args:
        meta: the header of the checkpoint.
        record: what `record_of` gave.
        with_data: whether the data set's files are in the folder.
    """
    model, dataset = meta["model"], meta["dataset"]
    name = record["row"] if record else model
    head: dict[str, Any] = {
        "library_name": "recbole-sigma",
        "tags": ["recommendation", "sequential-recommendation", "recbole", model.lower()],
    }
    if record:
        metrics = [{"type": key, "value": value} for key, value in record["test"].items() if key in SHOWN]
        place = {"task": {"type": "recommendation"}, "dataset": {"name": dataset, "type": dataset}}
        head["model-index"] = [{"name": name, "results": [{**place, "metrics": metrics}]}]
    why = MODELS[model].why if model in MODELS else "a model of RecBole"
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {name} on {dataset}",
        f"{model}: {why}. Trained with recbole-sigma {meta['versions']['recbole-sigma']}, "
        "an extension of RecBole.",
        "## Use",
        "```python\nfrom recbole_sigma.sharing.pretrained import from_pretrained\n\n"
        "model = from_pretrained(\"this folder, or OWNER/NAME\""
        + ("" if with_data else ', data_path="the folder that holds the folder of the data set"')
        + ")\nfor row in model.recommend(history=[\"a title\", \"another\"], k=10):\n"
        "    print(row.item, row.title, row.score)\n```",
        "Weights and settings are a safetensors file and JSON: loading runs no code of this folder.",
        "## Figures",
        _figures(record),
        "## Data",
        f"Trained and judged on `{dataset}`. "
        + (
            "Its files are in `data/`; their own terms hold."
            if with_data
            else "Its files are not here: their terms may forbid it. They are needed to load the model."
        ),
        "## Limits",
        "- It knows the items of its training data alone; `export --what=items --append` places new ones, "
        "but the weights do not learn them.\n"
        "- Figures of one data set and one offline protocol say which model guessed a held-out event, not "
        "what people would have done with the list.\n"
        "- What users did is in the weights. Ask whether they agreed before you pass the model on.",
        "## Repeat it",
        _how(meta, record),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _figures(record: dict[str, Any] | None) -> str:
    if record is None:
        return "No record of a test lies beside these weights."
    protocol = record["protocol"]
    policy = "never listed again" if protocol["filter_seen"] else "listed again"
    few = f", the first {protocol['limit']} users alone" if protocol.get("limit") else ""
    split = json.dumps(protocol["eval_args"]["split"])
    told = (
        f"Test part of the split `{split}` in order of time, ranked against the full catalogue; items that a "
        f"user had met are {policy}{few}. Seed {record['seed']}."
    )
    rows = ["| model | " + " | ".join(SHOWN) + " | seeds |", "|---" * (len(SHOWN) + 2) + "|"]
    own = [record["test"].get(key) for key in SHOWN]
    rows.append(f"| **{record['row']}, these weights** | {_cells(own)} | {record['seed']} |")
    for row in record["table"]:
        if len(record["table"]) > 1:
            seeds = ", ".join(map(str, row["seeds"]))
            rows.append(f"| {row['model']} | {_cells([row.get(key) for key in SHOWN])} | {seeds} |")
    return f"{told}\n\n" + "\n".join(rows)


def _cells(values: list[Any]) -> str:
    return " | ".join("" if value is None else f"{value:.4f}" for value in values)


def _how(meta: dict[str, Any], record: dict[str, Any] | None) -> str:
    lines = [f"- settings: `config.json`; epoch {meta.get('epoch')} was the best on validation"]
    if record:
        lines.append(f"- command: `{record['command']}`")
        lines.append(f"- commit: `{record['commit']}`")
        lines.append(f"- seconds: {record['seconds']['total']:.0f}")
    versions = ", ".join(f"{key} {value}" for key, value in sorted(meta.get("versions", {}).items()))
    lines.append(f"- versions: {versions}")
    return "\n".join(lines)
