"""Scores that a judge of the user's own wrote to a file: the judge runs elsewhere and once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recbole_sigma.policy.judge import Judge
from recbole_sigma.values import SeenPairs, UserError

HEADER = ("user_id", "item_id", "score")


class FileJudge(Judge):
    """Scores by user and item from a tab-separated file with the columns of `HEADER`.

    A pair that the file lacks has no say: it gets the mean score of its group.

    Args:
        path: the file; types behind the names of its columns (``score:float``) do no harm.
        train: the train part of a dataset, whose users and items the file names.

    Raises:
        UserError: no such file, a line that is none, a user or an item that the dataset does not have, two
            scores of one pair.
    """

    def __init__(self, path: str, train: Any) -> None:
        self.n_items = train.item_num
        found = read_scores(Path(path), train)
        keys = torch.tensor([user * self.n_items + item for user, item in found], dtype=torch.int64)
        self.keys, order = torch.sort(keys)
        self.values = torch.tensor(list(found.values()), dtype=torch.float32)[order]

    def score(self, users: Tensor, histories: SeenPairs, items: Tensor, rewards: Tensor) -> Tensor:
        """See `Judge.score`."""
        wanted = users[:, None] * self.n_items + items
        slot = torch.searchsorted(self.keys, wanted).clamp_max_(len(self.keys) - 1)
        known = self.keys[slot] == wanted
        scores = torch.where(known, self.values[slot], 0.0)
        mean = scores.sum(dim=1, keepdim=True) / known.sum(dim=1, keepdim=True).clamp_min(1)
        return torch.where(known, scores, mean)


def read_scores(path: Path, train: Any) -> dict[tuple[int, int], float]:
    """(user, item) -> score, by RecBole's numbers; see `FileJudge`."""
    if not path.is_file():
        raise UserError(f"policy_judge: the file {path} does not exist: name a file of scores")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"policy_judge: {path} is no text in UTF-8: write a tab-separated file") from error
    names = tuple(cell.partition(":")[0].strip() for cell in lines[0].split("\t")) if lines else ()
    if names != HEADER:
        wanted = ", ".join(HEADER)
        raise UserError(f"policy_judge: {path}:1 must name the columns {wanted}, separated by tabs")
    users = train.field2token_id[train.uid_field]
    items = train.field2token_id[train.iid_field]
    found: dict[tuple[int, int], float] = {}
    for number, line in enumerate(lines[1:], 2):
        if line in ("", "\r"):
            continue
        cells = line.split("\t")
        if len(cells) != len(HEADER):
            raise UserError(f"policy_judge: {path}:{number} has {len(cells)} cells in place of {len(HEADER)}")
        for what, name, known in (("user", cells[0], users), ("item", cells[1], items)):
            if name not in known or not known[name]:
                raise UserError(
                    f"policy_judge: {path}:{number} names {what} {name[:80]!r}, which dataset "
                    f"'{train.dataset_name}' does not have: the scores were made for other data"
                )
        try:
            value = float(cells[2])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError(f"policy_judge: {path}:{number} has the score {cells[2][:80]!r}, which is none")
        pair = int(users[cells[0]]), int(items[cells[1]])
        if found.setdefault(pair, value) != value:
            raise UserError(
                f"policy_judge: {path}:{number} scores item {cells[1][:80]!r} for user {cells[0][:80]!r} "
                f"again, as {value:g} after {found[pair]:g}: keep one of the lines"
            )
    if not found:
        raise UserError(f"policy_judge: {path} holds no score below its header")
    return found
