"""The trained models of a benchmark on another test part: the same weights, judged twice.

    python benchmarks/second_test.py saved/benchmark/yahoo-r3-clicks selected

FOLDER is what `benchmark` filled with rows that are judged by labels, and PART a test part of the data set
beside the one that its property file names (NAME.selected.inter). Prints AUC, GAUC, NDCG@5 and LogLoss of
every row, mean and standard deviation over seeds, of PART and of the usual test part. NDCG@5 orders a user's
test rows by score, equal scores as the file has them; users without a positive row are left out.
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import recbole_sigma  # noqa: F401  before RecBole
from recbole_sigma.benchmark.folder import RunFolder
from recbole_sigma.benchmark.tables import markdown_table
from recbole_sigma.evaluation.labels import LabelJudge
from recbole_sigma.quick_start import build_model
from recbole_sigma.run import checkpoint as files
from recbole_sigma.run.config import rebuild_config
from recbole_sigma.run.loaders import load_data
from recbole_sigma.values import UserError


def ndcg(rows: dict[str, np.ndarray], k: int = 5) -> float:
    """Mean NDCG@k over users with a positive row, of ``users``, ``labels`` and ``scores`` [n]."""
    order = np.lexsort((-rows["scores"], rows["users"]))
    users, labels = rows["users"][order], rows["labels"][order].astype(float)
    first = np.searchsorted(users, users)  # place of each row in the list of its user
    place = np.arange(len(users)) - first
    discount = np.where(place < k, 1 / np.log2(place + 2), 0.0)
    _, owner = np.unique(users, return_inverse=True)
    gain = np.bincount(owner, weights=labels * discount)
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(k) + 2))])
    positives = np.bincount(owner, weights=labels).astype(int)
    return float((gain[positives > 0] / ideal[np.minimum(positives[positives > 0], k)]).mean())


def main(words: list[str]) -> int:
    """Judge and print; exit code 2 with a sentence where that cannot be done."""
    if len(words) != 2:
        print(__doc__)
        return 2
    folder, part = RunFolder(Path(words[0])), words[1]
    cells = [cell for cell in folder.cells() if "rows" in cell]
    if not cells:
        print(f"error: {words[0]} holds no row that is judged by labels", file=sys.stderr)
        return 2
    figures = ("auc", "gauc_ctr", "ndcg@5", "logloss")
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    other = {"show_progress": False, "state": "ERROR", "benchmark_filename": ["train", "valid", part]}
    loaded: Any = None
    for cell in cells:
        saved = files.read(str(folder.checkpoint_path(cell["training"])))
        config = rebuild_config(saved.meta["config"], other)
        loaded = loaded or load_data(config, config.model_class)  # every cell has the same rows
        model = build_model(config, config.model_class, loaded.train)
        files.load_weights(model, saved)
        judged = LabelJudge(config).judge(model, loaded.test)
        stored = {name: np.asarray(column) for name, column in cell["rows"].items()}
        for where, metrics, rows in (
            ("test", cell["test_result"], stored),
            (part, judged.metrics, {name: getattr(judged, name) for name in stored}),
        ):
            row = found.setdefault((cell["row"]["name"], where), {figure: [] for figure in figures})
            for figure, value in {**metrics, "ndcg@5": ndcg(rows)}.items():
                if figure in row:
                    row[figure].append(value)
    body = []
    for (name, where), row in sorted(found.items(), key=lambda item: item[0][1] != "test"):
        spread = [
            f"{statistics.fmean(v):.4f}" + (f" ±{statistics.stdev(v):.4f}" if len(v) > 1 else "") if v else ""
            for v in row.values()
        ]
        body.append([(text, 0) for text in (where, name, *spread, str(len(row["auc"])))])
    print(markdown_table(["test part", "model", "AUC", "GAUC", "NDCG@5", "LogLoss", "seeds"], body))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
