"""What the policy stage says about itself, per row of a table: means over the seeds."""

from __future__ import annotations

from typing import Any

HEAD = [
    "policy stage", "NDCG@10 on validation, start and epochs", "kept epoch", "groups that taught nothing",
    "groups with a hit", "sign consistency", "mean lambda", "bound violations", "entropy of first code",
    "coverage", "tail share", "CPU s per epoch",
]  # fmt: skip
NOTE = (
    "Start and epochs are judged on validation. Kept epochs are those that validation chose, per seed; 0 is "
    "the start, which stays where no epoch is better. The figures of lists are those of the start and of the "
    "last epoch. Sign consistency: share of the rollouts whose judged advantage has the sign of the business "
    "advantage; lambda is what A2PO lets the judge count."
)


def rows(record: dict[str, Any]) -> list[list[str]]:
    """The body of a table under `HEAD`: a line per row that has a policy stage.

    Args:
        record: what `results.collect` gave.
    """
    stages: dict[str, list[tuple[list[dict[str, Any]], int]]] = {}
    for cell in record["cells"]:
        epochs = [epoch for epoch in cell["history"] if "policy" in epoch]
        if epochs:
            stages.setdefault(cell["row"]["name"], []).append((epochs, cell["best_epoch"]))
    return [_line(name, found) for name, found in stages.items()]


def _line(name: str, found: list[tuple[list[dict[str, Any]], int]]) -> list[str]:
    seeds = [epochs for epochs, _ in found]
    most = max(map(len, seeds))
    by_epoch = [
        [s[e]["valid"]["ndcg@10"] for s in seeds if e < len(s) and "ndcg@10" in s[e].get("valid", {})]
        for e in range(most)
    ]
    trained = [[epoch for epoch in s if epoch["epoch"] >= 0] for s in seeds]

    def mean(key: str) -> float | None:
        values = [epoch["policy"].get(key) for s in trained for epoch in s]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    def change(key: str, form: str) -> str:
        pairs = [(s[0]["policy"].get(key), s[-1]["policy"].get(key)) for s in seeds]
        if any(None in pair for pair in pairs):
            return ""
        first, last = (sum(part) / len(part) for part in zip(*pairs, strict=True))
        return f"{first:{form}} to {last:{form}}"

    seconds = [epoch["train_cpu_seconds"] for s in trained for epoch in s]
    violations = mean("bound_violations")
    return [
        name,
        " ".join(f"{sum(values) / len(values):.4f}" for values in by_epoch if values),
        ", ".join(str(best + 1) for _, best in found),
        _text(mean("skipped_groups"), ".0%"),
        _text(mean("hit_rate"), ".0%"),
        _text(mean("sign_consistency"), ".0%"),
        _text(mean("mean_lambda"), ".2f"),
        "" if mean("sign_consistency") is None else _text(violations, ".0f"),
        change("code_entropy", ".2f"),
        change("coverage", ".3f"),
        change("tail_share", ".3f"),
        f"{sum(seconds) / max(len(seconds), 1):.1f}",
    ]


def _text(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"
