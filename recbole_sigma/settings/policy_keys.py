"""The keys of the policy stage, declared as those of `settings.keys`."""

from __future__ import annotations

from dataclasses import dataclass

from recbole_sigma.settings.keys import key

POLICIES = ("none", "sft", "grpo", "a2po", "adv_sum", "reward_sum", "real", "real_bce")
JUDGED = ("a2po", "adv_sum", "reward_sum")
"""Policies that ask a judge."""


@dataclass(frozen=True)
class PolicyKeys:
    """Stage (e): training goes on with rewards, from a model that was trained with supervision."""

    policy: str = key(
        "none",
        "Go on with rewards: grpo and real (hits alone), a2po (a judge beside), ablations; sft = no rewards",
        choices=POLICIES,
    )
    policy_from: str | None = key(None, "Checkpoint to go on from; ~ = train with supervision first")
    policy_epochs: int = key(
        5, "Passes over the contexts; validation keeps the best, the start too", 1, 1 << 20
    )
    policy_learning_rate: float = key(3e-5, "Step size, constant", 0.0, 100.0)
    policy_batch: int = key(64, "Contexts per rollout", 1, 1 << 30)
    policy_contexts: int = key(2, "Train prefixes drawn per user and epoch", 1, 1 << 20)
    policy_group: int = key(16, "G, rollouts per context", 2, 1 << 16)
    policy_rollout: str = key(
        "beam",
        "G best, G drawn without replacement, or the G best with the true next item put in (off-policy)",
        choices=("beam", "sample", "forced"),
    )
    policy_updates: int = key(
        1, "Steps on the same rollouts; with 1 the old policy is always the present", 1, 1 << 10
    )
    policy_ratio: str = key("sequence", "One ratio per item, or one per token", choices=("sequence", "token"))
    policy_shares: str = key(
        "probability",
        "What a rollout counts in grpo, a2po and the sums: its probability among those of its group (ours), "
        "or all alike (as published)",
        choices=("probability", "equal"),
    )
    policy_clip: float = key(0.2, "How far from 1 a ratio counts", 0.0, 1e6)
    policy_kl: float = key(0.0, "Weight of the divergence from the start", 0.0, 1e6)
    policy_tau: float = key(0.5, "Temperature of real and real_bce", 1e-6, 1e6)
    policy_reward: str = key(
        "hit", "hit, rank (wrong items cost by place), or a float column of the interactions (rating, price)"
    )
    policy_judge: str = key(
        "cosine",
        "Who judges candidates: text closeness, aspect levels with learned or equal (uniform) weights, what "
        "clicks say of preference, a language model, a file of scores; random and adversarial are ablations",
        choices=(
            "cosine",
            "heuristic",
            "uniform",
            "clicks",
            "lm:<folder>",
            "file:<path>",
            "random",
            "adversarial",
        ),
    )
    policy_judge_share: float = key(1.0, "Share of the contexts that are judged", 0.0, 1.0)
    policy_judge_weight: float = key(1.0, "Weight of the judge in adv_sum and reward_sum", 0.0, 1e6)
