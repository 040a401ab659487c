"""Search spaces as data, and two ways to draw from them: seeded random, and TPE through hyperopt."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from recbole_sigma.settings.reader import wrong_value
from recbole_sigma.settings.reading import load_yaml, nearest, raise_all
from recbole_sigma.settings.recipes import properties_dir
from recbole_sigma.values import UserError

Space = dict[str, dict[str, Any]]
SAMPLERS = ("random", "tpe")
FIELDS = ("choices", "low", "high", "log", "integer")


def read_space(path: Path) -> Space:
    """A search space: key -> ``choices``, or ``low`` and ``high`` (``log``, ``integer``).

    Raises:
        UserError: with everything that is wrong in the file.
    """
    problems = []
    space = load_yaml(path)
    if not space:
        problems.append(f"{path} holds no key to search")
    for key, field in space.items():
        if not isinstance(field, dict):
            problems.append(
                f"{path}: {key} must be {{choices: [...]}} or {{low: ..., high: ...}}, not {field!r}"
            )
            continue
        problems += [
            f"{path}: {key} has an unknown field {f!r}{nearest(f, FIELDS)}" for f in field if f not in FIELDS
        ]
        if "choices" in field:
            ends = field["choices"]
            if not isinstance(ends, list) or not ends or len(field) > 1:
                problems.append(f"{path}: {key}: choices must be a list, and stands alone")
                continue
        else:
            ends = [field.get("low"), field.get("high")]
            if (
                not all(isinstance(e, (int, float)) and not isinstance(e, bool) for e in ends)
                or not all(map(math.isfinite, ends))
                or ends[0] >= ends[1]
            ):
                problems.append(f"{path}: {key} needs finite numbers low < high, not {field!r}")
                continue
            if field.get("log") and ends[0] <= 0:
                problems.append(f"{path}: {key}: a logarithmic scale needs low > 0")
        problems += [f"{path}: {wrong}" for end in ends if (wrong := wrong_value(key, end, None))]
    raise_all(problems)
    return space


def space_of(row: str, base: str) -> tuple[Space, Path]:
    """The shipped space of a row, else of its model.

    Raises:
        UserError: when there is none.
    """
    folder = properties_dir() / "tune"
    for name in (row, base):
        path = folder / f"{name}.yaml"
        if path.is_file():
            return read_space(path), path
    there = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
    raise UserError(f"no search space for {row}: give --space=FILE.yaml (shipped: {there})")


def draw(space: Space, rng: np.random.Generator) -> dict[str, Any]:
    """One point, uniform in each key's scale."""
    point = {}
    for key, field in space.items():
        if "choices" in field:
            point[key] = field["choices"][int(rng.integers(len(field["choices"])))]
            continue
        low, high = field["low"], field["high"]
        if field.get("log"):
            value = math.exp(rng.uniform(math.log(low), math.log(high)))
        else:
            value = rng.uniform(low, high + 1 if field.get("integer") else high)
        point[key] = _tidy(value, field)
    return point


def _tidy(value: float, field: dict[str, Any]) -> int | float:
    """Whole numbers where asked, four digits elsewhere: what the property file shows is what was run."""
    if field.get("integer"):
        return int(min(math.floor(value), field["high"]))
    return float(f"{value:.4g}")


def search(
    space: Space,
    sampler: str,
    trials: int,
    seed: int,
    objective: Callable[[int, dict[str, Any]], float | None],
) -> None:
    """Call the objective for every trial of a search.

    The points depend on the seed and on what the objective returned before, and on nothing else: an objective
    that remembers earlier values continues an interrupted search exactly.

    Args:
        space: the search space.
        sampler: ``random``, or ``tpe`` (needs hyperopt).
        trials: number of trials.
        seed: seed of the draws.
        objective: (trial, point) -> value to maximise, None for a failed trial. May raise `StopIteration`.

    Raises:
        UserError: ``tpe`` without hyperopt.
    """
    try:
        if sampler == "random":
            for trial in range(trials):
                objective(trial, draw(space, np.random.default_rng((seed, trial))))
        else:
            _tpe(space, trials, seed, objective)
    except StopIteration:
        return


def check_sampler(sampler: str) -> None:
    """Refuse an unknown sampler, and TPE where hyperopt is missing."""
    if sampler not in SAMPLERS:
        raise UserError(
            f"--sampler must be one of {', '.join(SAMPLERS)}; not {sampler!r}{nearest(sampler, SAMPLERS)}"
        )
    if sampler == "tpe" and importlib.util.find_spec("hyperopt") is None:
        raise UserError(
            "--sampler=tpe needs hyperopt (pip install 'recbole-sigma[tune]'); --sampler=random does not"
        )


def _tpe(
    space: Space, trials: int, seed: int, objective: Callable[[int, dict[str, Any]], float | None]
) -> None:
    from hyperopt import STATUS_FAIL, STATUS_OK, Trials, fmin, hp, tpe

    def node(key: str, field: dict[str, Any]) -> Any:
        if "choices" in field:
            return hp.choice(key, field["choices"])
        if field.get("log"):
            return hp.loguniform(key, math.log(field["low"]), math.log(field["high"]))
        return hp.uniform(key, field["low"], field["high"] + 1 if field.get("integer") else field["high"])

    count = iter(range(trials))

    def loss(point: dict[str, Any]) -> dict[str, Any]:
        tidy = {k: v if "choices" in space[k] else _tidy(v, space[k]) for k, v in point.items()}
        try:
            value = objective(next(count), {key: tidy[key] for key in space})
        except StopIteration as stop:  # hyperopt would take it for the end of its own iterator
            raise _StopSearch from stop
        return {"status": STATUS_FAIL} if value is None else {"status": STATUS_OK, "loss": -value}

    try:
        fmin(
            loss,
            {key: node(key, field) for key, field in space.items()},
            algo=tpe.suggest,
            max_evals=trials,
            trials=Trials(),
            rstate=np.random.default_rng(seed),
            show_progressbar=False,
            verbose=False,
        )
    except _StopSearch:
        return


class _StopSearch(Exception):  # noqa: N818  no error: the budget is spent
    """Ends a TPE search early."""
