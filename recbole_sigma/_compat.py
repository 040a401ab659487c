"""Every shim that lets RecBole 1.2.1 live on today's libraries: reason, bound, removal condition.

`recbole_sigma.plugin` calls `apply` when RecBole is about to be imported, or at once where it was imported
before. Until then nothing heavy is loaded. Nothing is overwritten: a name that exists is left alone.
"""

from __future__ import annotations

import importlib.util
import sys
import types
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from typing import Any

TESTED_RECBOLE = "1.2.1"

# Names that RecBole 1.2.1 and ray 2.6.3 read and that NumPy dropped.
#   reason:  recbole/config/configurator.py `compatibility_settings` reads np.float_, np.complex_ and
#            np.unicode_; ray/tune/logger/tensorboardx.py (imported by recbole.quick_start) reads np.bool8;
#            recbole/evaluator/metrics.py reads np.float, which only a Config sets.
#   bound:   numpy >= 2.0 (np.float: numpy >= 1.24) with recbole <= 1.2.1.
#   remove:  when a RecBole release imports under numpy 2 by itself and no longer needs ray < 2.7.
NUMPY_ALIASES = {
    "float_": "float64",
    "complex_": "complex128",
    "unicode_": "str_",
    "bool8": "bool_",
    "float": "float64",
}


def restore_numpy_aliases() -> list[str]:
    """Set the NumPy 1 names that RecBole needs, where absent; returns the names that were set."""
    import numpy as np

    missing = [name for name in NUMPY_ALIASES if name not in vars(np)]
    for name in missing:
        setattr(np, name, vars(np)[NUMPY_ALIASES[name]])
    return missing


class _RayTuneStandIn(types.ModuleType):
    """Stands for ``ray.tune`` where the real one cannot be imported; any use says what to install."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(
            f"ray.tune.{name} was asked for, but ray cannot be imported here: install ray<=2.6.3 and "
            "setuptools<82 on Python 3.11 to use it"
        )


def stand_in_for_ray() -> bool:
    """Put an empty ``ray``/``ray.tune`` in ``sys.modules`` where the real ray cannot be imported.

    reason:  recbole.quick_start imports ray.tune at its top, though only its hyper-parameter search uses it;
             ray 2.6.3 needs ``pkg_resources``, which setuptools 82 removed, and has none past Python 3.11.
    bound:   ray absent, or setuptools >= 82 beside ray <= 2.6.3.
    remove:  when RecBole imports ray lazily.

    Returns:
        True when the stand-in was installed.
    """
    if "ray" in sys.modules:
        return False
    if importlib.util.find_spec("ray") is not None and importlib.util.find_spec("pkg_resources") is not None:
        return False
    ray, tune = types.ModuleType("ray"), _RayTuneStandIn("ray.tune")
    for module in (ray, tune):
        module.__spec__ = ModuleSpec(module.__name__, loader=None)
        module.__doc__ = "Stand-in set by recbole_sigma._compat.stand_in_for_ray."
    ray.__path__ = []  # a package, so that `from ray import tune` and `import ray.tune` both resolve
    ray.tune = tune  # type: ignore[attr-defined]
    sys.modules["ray"], sys.modules["ray.tune"] = ray, tune
    return True


def quiet_known_warnings() -> None:
    """Silence, by exact message, warnings of RecBole's own code that a user of this package cannot act on.

    reason:  RecBole 1.2.1 calls torch.cuda.amp.GradScaler, pandas' chained fillna, and makes tensors of numpy
             arrays that are not writable; each would print once per run.
    bound:   recbole 1.2.1.
    remove:  with the call that warns.
    """
    for message in (
        r"`torch\.cuda\.amp\.GradScaler\(args\.\.\.\)` is deprecated",
        r"A value is trying to be set on a copy of a DataFrame or Series through chained assignment",
        r"using <built-in function len> in Series.agg cannot aggregate",
        r"The given NumPy array is not writable",
        r"pkg_resources is deprecated as an API",
        r"distutils Version classes are deprecated",
    ):
        warnings.filterwarnings("ignore", message=message)


def check_recbole_version() -> str | None:
    """Warn when the installed RecBole is not the tested one; returns the installed version."""
    try:
        found = version("recbole")
    except PackageNotFoundError:
        return None
    if found != TESTED_RECBOLE:
        warnings.warn(
            f"recbole {found} is installed; recbole-sigma is tested with recbole {TESTED_RECBOLE}: "
            f"if a hook fails, install recbole=={TESTED_RECBOLE}",
            stacklevel=3,
        )
    return found


def restore_dok_update() -> bool:
    """Give SciPy's ``dok_matrix`` the method ``_update`` back, where it is gone; whether it was.

    reason:  RecBole's GCMC, LightGCN, NCL, NGCF, SpectralCF, KGIN and MCCLK fill their adjacency matrix
             through this private method.
    bound:   scipy >= 1.13 with recbole <= 1.2.1; runs when RecBole's first model is imported.
    remove:  when RecBole builds the matrices from coordinates.
    """
    from scipy.sparse import dok_matrix

    if hasattr(dok_matrix, "_update"):
        return False

    def _update(self: Any, data: Any) -> None:
        self._dict.update(data)

    dok_matrix._update = _update
    return True


class Shadow(types.ModuleType):
    """A module seen from inside one other module, with some names replaced."""

    def __init__(self, real: types.ModuleType, **replaced: Any) -> None:
        super().__init__(real.__name__, real.__doc__)
        self.__dict__.update(replaced, _real=real)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_real"], name)


def plain_checkpoints(module: types.ModuleType, plain: Callable[[Any], dict[str, Any]]) -> None:
    """Let RecBole's own trainer keep its checkpoints as plain data, and read them without unpickling objects.

    reason:  RecBole's trainer stores its Config object as a pickle of protocol 4; `torch.load` refuses both,
             so that every training ends with an UnpicklingError when the best weights are read for the test.
    bound:   torch >= 2.6 with recbole <= 1.2.1; our runner has checkpoints of its own.
    remove:  when RecBole stores plain data.

    Args:
        module: ``recbole.trainer.trainer``.
        plain: gives the settings of a Config as plain values.
    """
    import numpy as np

    torch = module.torch

    def save(state: dict[str, Any], path: Any, **_: Any) -> None:
        state = {
            key: value.item() if isinstance(value, np.generic) else value for key, value in state.items()
        }
        torch.save({**state, "config": plain(state["config"])}, path)

    def load(path: Any, map_location: Any = None) -> Any:
        return torch.load(path, map_location=map_location, weights_only=True)

    module.torch = Shadow(torch, save=save, load=load)  # type: ignore[attr-defined]


def plain_checkpoint(path: Any) -> dict[str, Any] | None:
    """What such a checkpoint holds, on the CPU; None for any other file."""
    import torch

    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever is wrong with the file is for its own reader to say
        return None
    return stored if isinstance(stored, dict) and isinstance(stored.get("config"), dict) else None


def generator_of_hyperopt(module: types.ModuleType) -> None:
    """Give RecBole's exhaustive search a generator that old and new hyperopt can draw from.

    reason:  RecBole passes numpy's RandomState; hyperopt draws with ``integers``, which that lacks.
    bound:   hyperopt >= 0.2.6 with recbole <= 1.2.1.
    remove:  when RecBole passes a numpy Generator.

    Args:
        module: ``recbole.trainer.hyper_tuning``.
    """
    numpy = module.np

    class RandomState(numpy.random.RandomState):  # type: ignore[misc, name-defined]
        """numpy's, with the name that new libraries draw integers by."""

        integers = numpy.random.RandomState.randint

    module.np = Shadow(numpy, random=Shadow(numpy.random, RandomState=RandomState))  # type: ignore[attr-defined]


def repaired_model(model_class: type) -> type:
    """RecBole's Pop, BERT4Rec, S3Rec and LINE repaired; any other class as it is.

    Our runner uses these; RecBole's own runner keeps RecBole's.
    """
    repairs = {
        "Pop": _repaired_pop,
        "BERT4Rec": _repaired_bert4rec,
        "S3Rec": _repaired_s3rec,
        "LINE": _repaired_line,
    }
    if model_class.__name__ not in repairs or not model_class.__module__.startswith("recbole."):
        return model_class
    return repairs[model_class.__name__](model_class)


def _repaired_pop(model_class: Any) -> type:
    """RecBole's Pop counting every train interaction.

    reason:  RecBole 1.2.1's Pop counts an item once per training *batch* (an indexed assignment does not
             accumulate) and counts the sampled negatives of the point-wise loader as well, so its ranking
             depends on the batch size.
    bound:   recbole 1.2.1.
    remove:  when Pop.calculate_loss accumulates.
    """

    class Pop(model_class):  # type: ignore[misc]
        """RecBole's Pop with exact counts."""

        def __init__(self, config: Any, dataset: Any) -> None:
            super().__init__(config, dataset)
            import torch

            counts = torch.bincount(dataset.train_events().items, minlength=self.n_items)
            self.item_cnt = counts[:, None].to(self.device)
            self.max_cnt = self.item_cnt.max(dim=0).values

        def calculate_loss(self, interaction: Any) -> Any:
            """Nothing to learn: the counts are complete."""
            return self.fake_loss.sum()

    return Pop


def _repaired_bert4rec(model_class: Any) -> type:
    """RecBole's BERT4Rec with a loss of 0 on a batch in which no item was masked.

    reason:  the masks are drawn, and in a small batch of short histories none may fall on an item that counts
             (RecBole leaves the first position out); the loss is then 0 / 0, and one NaN ends the training.
             No other loss of RecBole's divides by a drawn number.
    bound:   recbole 1.2.1.
    remove:  when BERT4Rec.calculate_loss does not divide by 0.
    """

    class BERT4Rec(model_class):  # type: ignore[misc]
        """RecBole's BERT4Rec; see above."""

        def calculate_loss(self, interaction: Any) -> Any:
            """RecBole's loss over the masked items; 0 where there are none."""
            if (interaction[self.MASK_INDEX] > 0).any():
                return super().calculate_loss(interaction)
            return self.item_embedding.weight.sum() * 0.0

    return BERT4Rec


# Negatives that can never be found: S3Rec, LINE, and the masks of BERT4Rec's batches.
#   reason:  each draws until it finds an item that the history lacks (LINE: a user who has not met the item),
#            for ever where there is none. As in our own models, any item will do there.
#   bound:   recbole 1.2.1.
#   remove:  when RecBole looks for a negative before it draws one.


def _repaired_s3rec(model_class: Any) -> type:
    """RecBole's S3Rec, whose pre-training ends on histories that hold every item."""

    class S3Rec(model_class):  # type: ignore[misc]
        """RecBole's S3Rec; see above."""

        def _neg_sample(self, item_set: Any) -> int:
            return int(super()._neg_sample(() if _holds_all(item_set, self.n_items) else item_set))

    return S3Rec


def _repaired_line(model_class: Any) -> type:
    """RecBole's LINE, whose training ends where every user has met an item."""

    class LINE(model_class):  # type: ignore[misc]
        """RecBole's LINE; see above."""

        def get_used_ids(self) -> Any:
            """Users of each item, object [items] of sets; none where they are all users."""
            used = super().get_used_ids()
            for item, users in enumerate(used):
                if _holds_all(users, self.n_users):
                    used[item] = set()
            return used

    return LINE


def negatives_of_masks(module: types.ModuleType) -> None:
    """Let the masking of BERT4Rec's batches end on histories that hold every item; see above.

    Args:
        module: ``recbole.data.transform``.
    """
    masking = module.MaskItemSequence  # type: ignore[attr-defined]
    draw = masking._neg_sample

    def _neg_sample(self: Any, item_set: Any, n_items: int) -> int:
        return int(draw(self, () if _holds_all(item_set, n_items) else item_set, n_items))

    masking._neg_sample = _neg_sample


def _holds_all(ids: Any, number: int) -> bool:
    """Whether ids 1 to ``number`` - 1 are all there; 0 is padding."""
    return len(ids) >= number - 1 and len({*ids} - {0}) >= number - 1


def apply() -> None:
    """Apply all shims, before RecBole's own modules run."""
    restore_numpy_aliases()
    stand_in_for_ray()
    quiet_known_warnings()
    check_recbole_version()


def keep_freed_memory() -> bool:
    """Let glibc keep freed blocks instead of handing them back to the system.

    torch frees and allocates score matrices of many megabytes in every step; by default glibc maps and unmaps
    each of them, and the page faults can cost more than the arithmetic. For programs, not for a library: the
    command line calls it.

    Returns:
        whether the C library took the settings (only glibc knows them).
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    largest = 2**31 - 1  # mallopt takes an int
    trim, top_pad, mmap = -1, -2, -3
    return all(mallopt(key, value) for key, value in ((mmap, largest), (trim, largest), (top_pad, 1 << 26)))
