"""Keys of models that are scored by labels: how they are judged, and what is done to their columns."""

from __future__ import annotations

from dataclasses import dataclass

from recbole_sigma.settings.keys import key


@dataclass(frozen=True)
class LabelKeys:
    """Scores of labelled rows (clicks, ratings above a threshold) in place of ranked lists."""

    judged_by: str = key(
        "auto",
        "Labels (AUC, LogLoss) or ranked lists; auto = labels for context-aware models, DIN and DIEN",
        choices=("auto", "labels", "lists"),
    )
    label_rows: str = key(
        "own",
        "Labelled rows of a sequential model: the data's own, or gpsd = each user's last event beside a "
        "drawn item, the 30 % of the users with the latest ones held out for the test",
        choices=("own", "gpsd"),
    )
    gpsd_negatives: str = key(
        "uniform", "How label_rows: gpsd draws that item", choices=("uniform", "popularity")
    )
    gauc_group: str | None = key(None, "Column whose values are the groups of GAUC_CTR; ~ = the user")
    rare_below: int = key(
        0,
        "Labels: values of a .inter text column with fewer train rows become one value; 0 = none do",
        0,
        1_000_000,
    )
    numeric_scaling: str = key(
        "standard",
        "Labels: what numerical_features go through, with statistics of train rows; log = log(1 + x), then "
        "standard",
        choices=("none", "standard", "log"),
    )


@dataclass(frozen=True)
class SsrKeys:
    """SSR: sparse views of a row's vectors (`ctr.ssr`)."""

    ssr_filter: str = key(
        "ics",
        "How a view becomes sparse: fixed input dimensions, or iterated competition",
        choices=("static", "ics"),
    )
    ssr_views: tuple[int, ...] = key((4, 4), "Views of every layer")
    ssr_width: int = key(96, "Input dimensions that a static view reads", 1, 1 << 16)
    ssr_hidden: int = key(32, "Dimensions of a competitive view", 1, 1 << 16)
    ssr_steps: int = key(5, "Steps of the competition", 0, 100)
    ssr_alpha: float = key(0.1, "Share of the mean that a step takes away, at the start", -10.0, 10.0)
    ssr_learn_alpha: bool = key(True, "Learn that share per view and step")
    ssr_sparsity: str = key(
        "ics",
        "What thins a competitive view: competition, none, or its largest quarter alone",
        choices=("ics", "relu", "topk"),
    )
    ssr_value_path: bool = key(True, "Multiply a competitive view by a linear path of its own")
    ssr_dense: bool = key(True, "A GELU layer with a residual behind a competitive view")
    ssr_residual: bool = key(
        True, "Static views: two layers and a residual, as the code; one layer, as the text"
    )
    ssr_head: int = key(64, "Width of the layer before the logit", 1, 1 << 16)
    ssr_dropout: float = key(0.1, "Dropout behind every layer", 0.0, 0.99)
    ssr_batch_norm: bool = key(False, "BatchNorm over the row's vectors, as the authors' code has it")
    ssr_seed: int = key(0, "Seed of the static filters; they do not follow the seed of the run", 0, 1 << 20)
    ssr_any_coverage: bool = key(False, "Allow static filters that read less than 95 % of the input")


@dataclass(frozen=True)
class ImplicitRmKeys:
    """ImplicitRM: preference times activity (`ctr.implicit_rm`)."""

    irm_loss: str = key(
        "em",
        "EM, the likelihood itself, EM as the paper prints it, or what others do: clicks, ips, relevance",
        choices=("em", "direct", "swapped", "click", "ips", "relevance"),
    )
    irm_preference_fields: tuple[str, ...] = key((), "Columns of preference; none = all of users and items")
    irm_activity_fields: tuple[str, ...] = key(
        ("item_popularity", "user_activity"),
        "Columns of activity; these two are counts of clicks in train",
    )
    irm_anchor: str | None = key(
        None,
        "What is looked at for certain: COLUMN=VALUE, popularity (the most popular item), or nothing (~)",
    )
