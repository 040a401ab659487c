"""How every dataset here reads its files, and says what RecBole's filters take away."""

from __future__ import annotations

from collections.abc import Callable
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
from recbole.data.dataset import SequentialDataset
from recbole.utils import FeatureType

from recbole_sigma.data.atomic import format_of, load_frame
from recbole_sigma.data.published import events_of_rows
from recbole_sigma.settings.keys import ProtocolKeys
from recbole_sigma.settings.reader import read


class AtomicFiles:
    """Mixin before a RecBole Dataset class, below `data.events.ExactTime`.

    Attributes:
        missing_values: per column of the events, how many numbers its file lacks.
        packs_events: the dataset trains on the log itself and cannot use RecBole's ready-made rows.
    """

    config: Any  # these are RecBole's
    logger: Any
    dataset_name: str
    inter_feat: Any
    uid_field: str
    iid_field: str
    time_field: str | None
    field2type: dict[str, Any]
    field2source: dict[str, Any]
    field2seqlen: dict[str, int]
    field2bucketnum: dict[str, int]
    file_size_list: list[int]
    missing_values: dict[str, int]

    packs_events = False
    _file_part: np.ndarray | None = None
    """int8 [rows], the file of ``benchmark_filename`` that each event stands in; None for RecBole's rows."""

    def _load_feat(self, filepath: str, source: Any) -> Any:
        """Read an atomic file by the rules of `data.atomic`, in place of RecBole's reading as CSV."""
        load_col, unload_col = self._get_load_and_unload_col(source)  # type: ignore[attr-defined]
        if load_col == set():
            return None
        form = format_of(self.config)
        path = Path(filepath)
        frame, columns = load_frame(path, load_col, form)
        columns = [column for column in columns if column.name not in (unload_col or ())]
        if not columns:
            self.logger.warning(f"No columns has been loaded from [{source}]")
            return None
        frame = frame[[column.name for column in columns]]
        for name, kind in ((column.name, column.kind) for column in columns):
            if source != "link":
                self.field2source[name] = source
                self.field2type[name] = FeatureType(kind)
                if kind.startswith("float"):
                    self.field2bucketnum[name] = 2
            if kind.endswith("seq"):
                longest = max(map(len, frame[name].values), default=0)
                bound = (self.config["seq_len"] or {}).get(name)
                if bound:
                    frame[name] = [cell[:bound] for cell in frame[name]]
                    longest = min(longest, bound)
                self.field2seqlen[name] = longest
            elif source != "link":
                self.field2seqlen[name] = 1
        return frame

    def _load_inter_feat(self, token: str, dataset_path: str) -> None:
        """RecBole's loading; files of a published split that hold events keep the part of each."""
        super()._load_inter_feat(token, dataset_path)  # type: ignore[misc]
        if self.config["benchmark_filename"] is None:
            return
        part = np.repeat(np.arange(len(self.file_size_list), dtype=np.int8), self.file_size_list)
        history = f"{self.iid_field}{self.config['LIST_SUFFIX']}"
        if history in self.inter_feat:
            if not self.packs_events:
                return
            time = self.time_field if self.time_field in self.inter_feat else None
            names = (self.uid_field, self.iid_field, history, time)
            self.inter_feat, part = events_of_rows(self.inter_feat, part, names)
            for table in (self.field2type, self.field2source, self.field2seqlen):
                table.pop(history, None)
            alias = self.config["alias_of_item_id"] or []
            self.config["alias_of_item_id"] = [name for name in alias if name != history]
        self._file_part = part

    def _benchmark_presets(self) -> None:
        if self._file_part is None:  # RecBole's ready-made rows
            super()._benchmark_presets()  # type: ignore[misc]

    def _change_feat_format(self) -> None:
        super()._change_feat_format()  # type: ignore[misc]
        if self._file_part is not None and isinstance(self, SequentialDataset):
            self.data_augmentation()

    def _fill_nan(self) -> None:
        """RecBole's filling of missing cells, noted, but for numbers that a label-scored model reads.

        RecBole fills in the mean of all rows, test rows too; `data.labels` takes that of the train rows.
        """
        absent = self.inter_feat.isna().sum()
        self.missing_values = {name: int(count) for name, count in absent.items() if count}
        missing = {}
        if self.config["judged_by"] == "labels":
            for name in self.feat_name_list:  # type: ignore[attr-defined]
                table = getattr(self, name)
                for field in self.config["numerical_features"] or ():
                    if field in table and self.field2type[field] == FeatureType.FLOAT:
                        missing[name, field] = table[field].isna().to_numpy()
        super()._fill_nan()  # type: ignore[misc]
        for (name, field), holes in missing.items():
            getattr(self, name).loc[holes, field] = np.nan

    def _filter_nan_user_or_item(self) -> None:
        self._counted("a missing id", super()._filter_nan_user_or_item)  # type: ignore[misc]

    def _filter_by_field_value(self) -> None:
        self._counted(f"val_interval {self.config['val_interval']}", super()._filter_by_field_value)  # type: ignore[misc]

    def _filter_by_inter_num(self) -> None:
        bounds = [
            f"{key} {self.config[key]}" for key in ("user_inter_num_interval", "item_inter_num_interval")
        ]
        self._counted(" and ".join(bounds), super()._filter_by_inter_num)  # type: ignore[misc]
        limit = read(ProtocolKeys, self.config).limit
        if limit:  # behind the filters: what they ask of items holds for the whole data set
            self._counted(f"limit {limit}", lambda: self._keep_first_users(limit))

    def _keep_first_users(self, limit: int) -> None:
        """Keep the events of the users that come first in the file."""
        users = self.inter_feat[self.uid_field]
        self.inter_feat = self.inter_feat[users.isin(users.unique()[:limit])]

    def _filter_inter_by_user_or_item(self) -> None:
        cause = "filter_inter_by_user_or_item, since their user or item has no row in its file"
        self._counted(cause, super()._filter_inter_by_user_or_item)  # type: ignore[misc]
        self._say_rows_without_features()

    def _counted(self, cause: str, step: Callable[[], None]) -> None:
        """Run one of RecBole's filters, and say how many events it took away."""
        before = len(self.inter_feat)
        step()
        gone = before - len(self.inter_feat)
        if gone:
            getLogger().info(f"{self.dataset_name}: {gone} of {before} events are left out by {cause}")

    def _say_rows_without_features(self) -> None:
        """Say how many users and items of the events have no row in the file of their features."""
        for kind, field in (("user", self.uid_field), ("item", self.iid_field)):
            table = getattr(self, f"{kind}_feat")
            if table is None or field is None:
                continue
            absent = ~self.inter_feat[field].isin(table[field])
            if absent.any():
                names = self.inter_feat[field][absent]
                getLogger().warning(
                    "%s: %d %ss with %d events have no row in the .%s file (such as %r); the events stay, "
                    "without features",
                    self.dataset_name,
                    names.nunique(),
                    kind,
                    int(absent.sum()),
                    kind,
                    names.iloc[0],
                )

    def get_preload_weight(self, field: str) -> np.ndarray:
        """RecBole's matrix of loaded vectors as float32 [tokens, size]; its KSR fails on float64."""
        matrix: np.ndarray = super().get_preload_weight(field)  # type: ignore[misc]
        return matrix.astype(np.float32)
