"""Where a run's losses and metrics go besides the log: ``log_to: tensorboard``, ``wandb`` or ``mlflow``.

Each place gets the settings once, the training loss and the validation metrics of every epoch, and the test
metrics at the end. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Protocol

NEEDS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
"""Package that each value of ``log_to`` needs."""


class Tracker(Protocol):
    """One run in the user's tool."""

    def log(self, epoch: int, values: dict[str, float]) -> None:
        """Metrics of an epoch, by names such as ``valid/ndcg@10``."""

    def close(self, values: dict[str, float]) -> None:
        """Metrics of the whole run, and its end."""


def missing(place: Any) -> str | None:
    """The sentence about a package that a place needs and that is not installed; None where all is there."""
    package = NEEDS.get(str(place))
    if package is None or importlib.util.find_spec(package) is not None:
        return None
    return f"log_to: {place} needs the package {package}: pip install {package}, or leave the key out"


def open_tracker(place: str, config: Any, name: str) -> Tracker:
    """Begin a run.

    Args:
        place: a value of ``log_to`` but none.
        config: the resolved config; its settings go along.
        name: what the run is called there.
    """
    kinds: dict[str, type[_TensorBoard] | type[_Wandb] | type[_MLflow]]
    kinds = {"tensorboard": _TensorBoard, "wandb": _Wandb, "mlflow": _MLflow}
    return kinds[place](config, name)


def _settings(config: Any) -> dict[str, Any]:
    return {"model": config["model"], "dataset": config["dataset"], **config.requested}


class _TensorBoard:
    """Event files in log_tensorboard/NAME."""

    def __init__(self, config: Any, name: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(f"log_tensorboard/{name}")
        lines = (f"    {key}: {value}" for key, value in sorted(_settings(config).items()))
        self.writer.add_text("settings", "\n".join(lines))

    def log(self, epoch: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            self.writer.add_scalar(key, value, epoch)
        self.writer.flush()  # an epoch may take hours, and someone looks

    def close(self, values: dict[str, float]) -> None:
        for key, value in values.items():
            self.writer.add_scalar(key, value)
        self.writer.close()


class _Wandb:
    """A run of Weights & Biases in the project ``wandb_project``; its own environment variables hold."""

    def __init__(self, config: Any, name: str) -> None:
        import wandb

        project = config["wandb_project"] or "recbole-sigma"
        self.run = wandb.init(project=project, name=name, config=_settings(config))
        self.run.define_metric("epoch")
        self.run.define_metric("*", step_metric="epoch")

    def log(self, epoch: int, values: dict[str, float]) -> None:
        self.run.log({"epoch": epoch, **values})

    def close(self, values: dict[str, float]) -> None:
        self.run.summary.update(values)
        self.run.finish()


class _MLflow:
    """A run of the experiment DATASET, where MLFLOW_TRACKING_URI says, or in mlflow's own folder here."""

    def __init__(self, config: Any, name: str) -> None:
        import mlflow

        self.mlflow = mlflow
        mlflow.set_experiment(config["dataset"])
        mlflow.start_run(run_name=name)
        longest = 500  # of a parameter's value in its oldest store
        mlflow.log_params({key: str(value)[:longest] for key, value in _settings(config).items()})

    def log(self, epoch: int, values: dict[str, float]) -> None:
        named = {key.replace("@", " at "): value for key, value in values.items()}  # it knows no @ in names
        self.mlflow.log_metrics(named, step=epoch)

    def close(self, values: dict[str, float]) -> None:
        self.log(0, values)
        self.mlflow.end_run()


@contextlib.contextmanager
def no_event_file() -> Iterator[None]:
    """Give RecBole's trainers a writer that writes nothing: they always open an event file."""
    import recbole.trainer.trainer as stock  # not above: it asks for run.config, which asks for this module

    original = stock.get_tensorboard
    nothing = SimpleNamespace(add_scalar=_ignore, add_hparams=_ignore)
    stock.get_tensorboard = lambda logger: nothing
    try:
        yield
    finally:
        stock.get_tensorboard = original


def _ignore(*args: Any, **kwargs: Any) -> None:
    """Take anything, do nothing."""
