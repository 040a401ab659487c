"""The policy stage: a batch of contexts becomes rollouts with advantages, and rollouts become a loss.

The trainer stays the one of every model (`run.policy`); decoder and likelihoods are the model's own.
Everything that this file reads of the data is training interactions and item text.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from recbole_sigma.models.contract import contract, contract_class
from recbole_sigma.policy import objectives
from recbole_sigma.policy.advantages import advantages
from recbole_sigma.policy.figures import Sums
from recbole_sigma.policy.judge import Judge
from recbole_sigma.policy.judges import build_judge
from recbole_sigma.policy.rewards import HIT, RANK, BusinessValues, hit, rank_aware
from recbole_sigma.policy.rollout import pairs, roll_out
from recbole_sigma.settings.keys import BeamKeys, ProtocolKeys
from recbole_sigma.settings.policy_keys import JUDGED, PolicyKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.values import SeenPairs, UserError

ITEMS, SEEN, GAIN, LABEL, TEACHES = (
    f"policy_{name}" for name in ("items", "seen", "gain", "label", "teaches")
)
OLD, REFERENCE, SHARE = "policy_old", "policy_reference", "policy_share"
"""Columns that rollouts add to a batch of contexts."""
_ADVANTAGES = {"grpo": "business", "a2po": "a2po", "adv_sum": "adv_sum", "reward_sum": "reward_sum"}


class PolicyStage:
    """Rolls out, judges and takes the loss.

    Args:
        config: RecBole config with the policy keys.
        train: the train part of a packed dataset.
        model_class: of the model.

    Raises:
        UserError: a model without likelihoods of tokens, a group larger than the beam or the catalogue, a
            reward column or a judge that cannot be used.
    """

    def __init__(self, config: Any, train: Any, model_class: type) -> None:
        self.keys = keys = read(PolicyKeys, config)
        self.filter_seen = read(ProtocolKeys, config).filter_seen
        self.device = config["device"]
        self.widest = widest_list(model_class, read(BeamKeys, config).decode_beam, train.item_num)
        problem = refusal(model_class, keys, self.widest, train.item_num)
        if problem:
            raise UserError(problem)
        self.dataset = train
        self.values = None
        if keys.policy_reward not in (HIT, RANK):
            self.values = BusinessValues(train, keys.policy_reward)
        self.judge: Judge | None = None
        if keys.policy in JUDGED:
            self.judge = build_judge(keys.policy_judge, train, config)
        self.reference: Any = None
        self.sums = Sums()

    def start(self, model: Any) -> None:
        """Keep what ``policy_kl`` measures the divergence from."""
        if self.keys.policy_kl:
            self.reference = copy.deepcopy(model).eval()

    # --- rollouts -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def roll_out(self, model: Any, batch: Any) -> Any:
        """Rollouts of a batch of contexts, with what they earned: the batch with more columns, on the host.

        ``ITEMS`` int64 [B, G], ``SEEN`` int64 [B, S] (0 in empty slots), ``GAIN`` float [B, G] advantages,
        ``LABEL`` bool [B, G], ``TEACHES`` bool [B]; with several steps per rollout ``OLD`` float [B, G, L],
        with ``policy_kl`` ``REFERENCE`` likewise; with shares by probability ``SHARE`` float [B, G].
        """
        keys, dataset = self.keys, self.dataset
        started = time.process_time()
        model.eval()
        users, target = batch[dataset.uid_field], batch[dataset.iid_field]
        met = dataset.chronology.before(users, batch[dataset.time_field])
        seen = met if self.filter_seen else None
        there = contract(model).on_device(batch, self.device)
        closed = None if seen is None else (seen[0].to(self.device), seen[1].to(self.device))
        found = roll_out(
            model,
            there,
            keys.policy_rollout,
            keys.policy_group,
            target.to(self.device),
            closed,
            self.widest,
        )
        items = found.items.cpu()
        full = (items > 0).all(dim=1)
        columns = rollable(items, table_of(seen, len(batch)))
        if keys.policy_updates > 1 or keys.policy_rollout == "forced":
            columns[OLD] = self._log_probs(model, there, columns)
        if self.reference is not None:
            columns[REFERENCE] = self._log_probs(self.reference, there, columns)
        if keys.policy_shares == "probability":
            carried = columns[OLD].sum(dim=2) if OLD in columns else found.scores.cpu()
            columns[SHARE] = carried.masked_fill(items == 0, -torch.inf).softmax(dim=1).nan_to_num()
        rolled = time.process_time()
        rewards, labels = self._rewards(users, target, items)
        scores = self._judged(users, met, items, rewards)
        kind = _ADVANTAGES.get(keys.policy, "business")
        gain, business, judged = advantages(
            kind, rewards, scores, keys.policy_judge_weight, columns.get(SHARE)
        )
        columns[GAIN], columns[LABEL] = gain, labels
        real = keys.policy.startswith("real")
        teaches = objectives.both_labels(labels) if real else (gain != 0).any(dim=1)
        columns[TEACHES] = teaches & full  # a list that ran short is no group
        self.sums.note_judge(business, judged)
        self.sums.add(
            groups=len(items),
            silent=(~columns[TEACHES]).sum(),
            short=(~full).sum(),
            hits=(items == target[:, None]).any(dim=1).sum(),
            seconds_rollout=rolled - started,
            seconds_judge=time.process_time() - rolled,
        )
        batch.update(type(batch)(columns))
        return batch

    def _log_probs(self, model: Any, there: Any, columns: dict[str, Tensor]) -> Tensor:
        """float [B, G, L] on the host."""
        seen = pairs(columns[SEEN].to(self.device)) if self.filter_seen else None
        return contract(model).candidate_log_probs(there, columns[ITEMS].to(self.device), seen).cpu()

    def _rewards(self, users: Tensor, target: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """(rewards float [B, G], labels bool [B, G] for the objectives that classify)."""
        if self.values is not None:
            worth = self.values(users, items)
            return worth, worth > 0
        found = hit(items, target)
        return (rank_aware(items, target) if self.keys.policy_reward == RANK else found), found > 0

    def _judged(self, users: Tensor, met: SeenPairs, items: Tensor, rewards: Tensor) -> Tensor | None:
        """The judge's scores float [B, G]; 0 throughout in groups that are not judged."""
        if self.judge is None:
            return None
        scores = torch.zeros(items.shape)
        share = self.keys.policy_judge_share
        chosen = torch.arange(len(items))
        if share < 1.0:
            chosen = chosen[torch.rand(len(items)) < share]
        if len(chosen):
            place = torch.full((len(items),), -1).index_put_((chosen,), torch.arange(len(chosen)))
            row = place[met[0]]
            own = row[row >= 0], met[1][row >= 0]
            scores[chosen] = self.judge.score(users[chosen], own, items[chosen], rewards[chosen])
        self.sums.add(judged=len(chosen))
        return scores

    # --- losses ---------------------------------------------------------------------------------------------

    def loss(self, model: Any, batch: Any) -> Tensor:
        """The loss of rollouts, whose log-probabilities come from the forward pass that trains, without
        dropout.

        Groups that teach nothing are left out of the pass and stay in the divisor.
        """
        started = time.process_time()
        keys, whole = self.keys, len(batch)
        model.eval()
        asked = (
            torch.ones(whole, dtype=torch.bool) if REFERENCE in batch.interaction else batch[TEACHES].cpu()
        )
        asked = asked.nonzero().flatten()
        if not len(asked):
            asked = torch.zeros(1, dtype=torch.int64)  # a step that teaches nothing has a gradient of zero
        batch = batch[asked.to(batch[ITEMS].device)]
        teaches = batch[TEACHES]
        seen = pairs(batch[SEEN]) if self.filter_seen else None
        new = contract(model).candidate_log_probs(batch, batch[ITEMS], seen)
        old = batch[OLD] if OLD in batch.interaction else new.detach()
        if keys.policy.startswith("real"):
            of = objectives.real if keys.policy == "real" else objectives.real_bce
            each = of(objectives.log_ratio(new, old), batch[LABEL], keys.policy_tau)
        else:
            each = objectives.clipped(
                new,
                old,
                batch[GAIN],
                keys.policy_clip,
                keys.policy_ratio,
                batch[SHARE] if SHARE in batch.interaction else None,
            )
        # REAL-BCE is a mean over the groups that teach, the others over all of them
        groups = int(teaches.sum()) if keys.policy == "real_bce" else whole
        loss = objectives.batch_loss(torch.where(teaches, each, 0.0 * each), groups)
        if REFERENCE in batch.interaction:
            loss = loss + keys.policy_kl * objectives.k3(new, batch[REFERENCE]).mean()
        self.sums.add(seconds_step=time.process_time() - started)
        return loss

    def finish_epoch(self) -> None:
        """Let the judge write what it keeps."""
        if self.judge is not None:
            self.judge.finish()


def table_of(seen: SeenPairs | None, batch: int) -> Tensor:
    """(row, item) pairs, rows ascending, as int64 [B, S], 0 in empty slots."""
    if seen is None or not len(seen[0]):
        return torch.zeros(batch, 1, dtype=torch.int64)
    row, item = seen
    size = torch.bincount(row, minlength=batch)
    table = torch.zeros(batch, int(size.max()), dtype=torch.int64)
    table[row, torch.arange(len(row)) - (size.cumsum(0) - size)[row]] = item
    return table


def rollable(items: Tensor, seen: Tensor) -> dict[str, Tensor]:
    """The columns ``ITEMS`` and ``SEEN`` such that every log-probability is finite.

    A list that ran short teaches nothing; its empty slots repeat its first item. Where nothing at all is
    left, nothing is hidden either.
    """
    nothing = items[:, 0] == 0
    return {
        ITEMS: torch.where(items > 0, items, items[:, :1]).clamp_min(1),
        SEEN: seen.masked_fill(nothing[:, None], 0),
    }


def widest_list(model_class: type, beam: int, n_items: int) -> int:
    """Longest list that a model's search makes."""
    answers = contract_class(model_class)
    return min(beam, n_items - 1) if answers.beam_bounds_list and beam else n_items - 1


def refusal(model_class: type, keys: PolicyKeys, widest: int, n_items: int) -> str | None:
    """The sentence about keys that a model or a catalogue cannot serve, or None."""
    if not contract_class(model_class).token_likelihoods:
        return no_likelihoods(model_class.__name__)
    if keys.policy_group > widest:
        bound = (
            f"the beam (decode_beam {widest})" if widest < n_items - 1 else f"the catalogue ({widest} items)"
        )
        return f"policy_group {keys.policy_group} is larger than {bound}: lower it"
    return None


def no_likelihoods(model: str) -> str:
    """The sentence about a policy for a model that has no likelihoods of tokens."""
    return (
        f"policy: {model} gives no likelihood of the tokens of an item, which a policy needs: use SIGMA or "
        "TIGER, or leave policy out"
    )


def unread(given: Iterable[tuple[str, dict[str, Any]]]) -> list[str]:
    """Sentences about keys of the stage in settings that do not speak of a policy.

    Args:
        given: (where, values) of everything that the user gave.
    """
    sources = list(given)
    if any("policy" in values for _, values in sources):  # none is on purpose; a checkpoint holds every key
        return []
    found = [(where, [key for key in values if key.startswith("policy_")]) for where, values in sources]
    return [
        f"{', '.join(keys)} has no effect without a policy, such as policy: grpo (in {where})"
        for where, keys in found
        if keys
    ]
