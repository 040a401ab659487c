"""What the trainer, the evaluator and the benchmark may ask of a model.

RecBole's own models know nothing of this: `contract` answers for them with the defaults below. A model of
this package derives from `Contract` beside its RecBole base class and overrides what differs;
docs/your_model.md walks through one.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

from recbole_sigma.values import UserError

if TYPE_CHECKING:  # the command line asks here too, before torch and RecBole are loaded
    from torch import Tensor, nn

    from recbole_sigma.values import ItemCodes, RankedItems, SeenPairs


class Contract:
    """The questions, each with the answer that holds for a plain RecBole model.

    Attributes:
        generative: the model makes its own lists (`rank`); otherwise its dense scores are ranked.
        label_scored: it learns from labels and is judged by them (AUC and the like) unless ``judged_by``
            says otherwise; None goes by RecBole's type of the model.
        learns_labels: it learns from labels too where ``judged_by: labels`` asks for it.
        training_free: nothing is trained; one pass over the data, one seed.
        whole_history: reads histories whole; a table's common ``MAX_ITEM_LIST_LENGTH`` does not cut them.
        choices: settings that validation chooses among before the first judgement, such as weights of a sum.
        needs_item_text: a dataset without ``text_fields`` is refused before loading.
        beam_bounds_list: ``decode_beam`` must be at least as large as the longest list.
        loss_names: names of the parts that ``calculate_loss`` returns, for the log.
        decoding_keys: keys that change what a trained model recommends, not its weights; a benchmark trains
            once for rows that differ in them alone.
        task_labels: the instruction tasks that the model was trained on (`models.sigma.labels.TaskLabels`).
        reads_instructions: a list may be asked for in words.
        item_codes: the items' semantic IDs where lists come by prefix, or None.
        averages_scores: its scores of the whole catalogue may be averaged over several networks
            (``ensemble_size``).
        token_likelihoods: gives the log-probability of every token of an item (`candidate_log_probs`), which
            the policy stage needs.
    """

    generative: bool = False
    label_scored: bool | None = None
    learns_labels: bool = False
    training_free: bool = False
    whole_history: bool = False
    choices: int = 0
    needs_item_text: bool = False
    beam_bounds_list: bool = True
    loss_names: tuple[str, ...] = ()
    decoding_keys: frozenset[str] = frozenset()
    task_labels: Any = None
    reads_instructions: bool = False
    item_codes: ItemCodes | None = None
    token_likelihoods: bool = False
    averages_scores: bool = False

    @classmethod
    def follows_filter(cls, config: Mapping[str, Any]) -> bool:
        """Whether training itself reads ``filter_seen``, so that both seen-item policies need a training."""
        return False

    # --- training -------------------------------------------------------------------------------------------

    def on_epoch_start(self, epoch: int, train_data: Any) -> None:
        """Called before every epoch, such as to redraw training rows.

        What it computes must follow from the epoch and the data, or live in buffers that the ``state_dict``
        holds: a run that goes on inside an epoch calls it again and then puts the weights back.
        """

    def on_device(self, interaction: Any, device: Any) -> Any:
        """A batch of the host where the model is; a model may note on the way what it needs on the host."""
        return interaction.to(device)

    def optimizer_groups(self, weight_decay: float) -> list[dict[str, Any]] | None:
        """Parameter groups for the optimizer; None takes all parameters with one weight decay."""
        return None

    def prediction_count(self, interaction: Any) -> float:
        """Predictions that the mean loss of a batch averages over: its rows, unless rows hold several."""
        return float(len(interaction))

    def longest_row(self) -> int | None:
        """Positions of the longest training row, for the memory estimate; None where there is none."""
        return None

    def step_shapes(self, batch: Any) -> Hashable | None:
        """What fixes the shapes of every tensor of a training step on an accelerator, or None.

        Steps with equal shapes are recorded once and then replayed (`run.replay`), so ``calculate_loss`` must
        read no value on the host, and everything that differs between two such batches must be in
        `step_inputs`.

        Args:
            batch: what `on_device` gave.
        """
        return None

    def step_inputs(self, batch: Any) -> list[Tensor]:
        """The tensors of a batch of `on_device` that ``calculate_loss`` reads, always in the same order."""
        return list(batch.interaction.values())

    def compiled_parts(self) -> list[nn.Module]:
        """The modules that ``train_compile`` hands to torch.compile: those that do the work of a step, and
        whose forward does not depend on values.
        """
        return []

    def validation_scores(self, interaction: Any) -> Tensor:
        """What labelled validation rows are scored with, float [B].

        It differs from ``predict`` where a model ranks by a cause that no row shows: the epoch is then picked
        by what the rows do show.
        """
        return self.predict(interaction)  # type: ignore[attr-defined, no-any-return]

    # --- checkpoints ----------------------------------------------------------------------------------------

    def checkpoint_extra(self) -> dict[str, Any]:
        """Text and tensors that travel with the weights."""
        return {}

    # --- items, for export ----------------------------------------------------------------------------------

    def item_vectors(self) -> Tensor | None:
        """What states are compared with: float [N, d], row 0 padding; None where scores are no products."""
        return None

    def semantic_ids(self) -> ItemCodes | None:
        """The items' codes, a digit that tells equal ones apart included; None for a model without."""
        return self.item_codes

    def code_sources(self, dataset: Any) -> Tensor | None:
        """What residual k-means made the codes from: float [N, e], row 0 padding; None where it did not.

        Args:
            dataset: the train part.
        """
        return None

    def quantized_levels(self) -> int:
        """Levels of `semantic_ids` that come from the quantizer."""
        codes = self.semantic_ids()
        return 0 if codes is None else codes.codes.shape[1]

    def target_gates(self, interaction: Any, row: Tensor, items: Tensor) -> Tensor | None:
        """How far each item is told by its semantic ID (1) and not by clicks (0): float [P].

        A table shows the mean per slice. None for a model that decides nothing of the kind.

        Args:
            interaction: B rows with a history.
            row: int64 [P], the row whose target an item is.
            items: int64 [P].
        """
        return None

    # --- lists ----------------------------------------------------------------------------------------------

    def rank(self, interaction: Any, k: int, seen: SeenPairs | None = None) -> RankedItems:
        """The best k items of every row; only generative models are asked.

        Args:
            interaction: rows with a history.
            k: length of the lists.
            seen: (row, item) pairs that may not be recommended, or None.

        Returns:
            `RankedItems` [B, k].
        """
        raise UserError(f"{type(self).__name__} makes no lists of its own")

    def rank_exactly(self, interaction: Any, k: int, seen: SeenPairs | None = None) -> RankedItems:
        """`rank` without what a beam may lose: the best k of all items that are left.

        What a sentence rules out is in ``seen`` too, and may leave few items anywhere in the catalogue.
        """
        return self.rank(interaction, k, seen)

    def rank_fused(
        self, interaction: Any, k: int, seen: SeenPairs | None, bonus: Any, weights: tuple[float, ...]
    ) -> list[RankedItems]:
        """`rank` by score + weight * bonus (`decoding.memory`), one list per weight."""
        raise UserError(f"{type(self).__name__} makes no lists of its own")

    def rank_choices(self, interaction: Any, k: int, seen: SeenPairs | None) -> list[RankedItems]:
        """Lists under each of the ``choices``; see `rank`."""
        raise UserError(f"{type(self).__name__} leaves nothing to validation")

    def choose(self, number: int) -> None:
        """Take one of the ``choices`` for good; what ``other_parameter_name`` names keeps it."""
        raise UserError(f"{type(self).__name__} leaves nothing to validation")

    # --- the policy stage -----------------------------------------------------------------------------------

    def beams(self, interaction: Any, k: int, seen: SeenPairs | None = None) -> RankedItems:
        """The most probable k items of every row by log P itself, whatever decoding does to the scores
        besides; see `rank`.
        """
        return self.rank(interaction, k, seen)

    def candidate_log_probs(self, interaction: Any, items: Tensor, seen: SeenPairs | None = None) -> Tensor:
        """Teacher-forced log-probabilities of given items, with gradient.

        Args:
            interaction: B rows with a history.
            items: int64 [B, G], items that exist, none of them in ``seen``.
            seen: (row, item) pairs that may not be recommended, or None.

        Returns:
            float [B, G, L], one log-probability per token of the item; their sum is log P(item | row).
        """
        raise UserError(f"{type(self).__name__} gives no likelihoods of tokens")

    @classmethod
    def has_beam(cls) -> bool:
        """Whether lists come from a beam search that ``prefix_survival`` can judge."""
        return False

    def prefix_survival(self, interaction: Any, k: int, seen: SeenPairs | None = None) -> Tensor:
        """Share of the exact best k items that the beam search returned: float [B]."""
        raise UserError(f"{type(self).__name__} has no beam search")


class _Traditional(Contract):
    """RecBole's models of type TRADITIONAL (Pop, ItemKNN, EASE): one pass over the data, nothing trained."""

    training_free = True


def contract(model: nn.Module) -> Contract:
    """What answers for a model: itself, or the defaults for a model of RecBole's."""
    return model if isinstance(model, Contract) else contract_class(type(model))()


def contract_class(model_class: type) -> type[Contract]:
    """`contract` for a class that is not built yet."""
    if issubclass(model_class, Contract):
        return model_class
    from recbole.model.abstract_recommender import AbstractRecommender
    from recbole.utils import ModelType

    kind: Any = model_class if issubclass(model_class, AbstractRecommender) else None
    return _Traditional if kind and kind.type == ModelType.TRADITIONAL else Contract


POINTWISE_SEQUENTIAL = ("DIN", "DIEN")
"""Sequential models of RecBole's that learn from labels."""


def learns_from_labels(model_class: Any) -> bool:
    """Whether a model learns from labelled rows: context-aware models, and those that say so."""
    from recbole.utils import ModelType

    said = contract_class(model_class).label_scored
    if said is not None:
        return said
    kind = getattr(model_class, "type", None)
    return kind == ModelType.CONTEXT or model_class.__name__ in POINTWISE_SEQUENTIAL


def without_beam(model_class: type) -> str | None:
    """The sentence about a model that has no beam search for ``prefix_survival`` to judge, or None."""
    if contract_class(model_class).has_beam():
        return None
    return (
        "metric prefix_survival compares a beam search with the exact list, and "
        f"{model_class.__name__} has no beam search: take it out of metrics"
    )
