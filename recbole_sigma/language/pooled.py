"""A transformers cache that does what `transformer.KeyValues` does: tell its length, be copied, step back."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from recbole_sigma.language.transformer import KeyValuePool


class _PooledLayer(DynamicLayer):
    """A transformers cache layer over a `KeyValuePool`: it appends in place instead of concatenating."""

    def __init__(self, reserve: int) -> None:
        super().__init__()
        self.pool = KeyValuePool(reserve)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys, self.values = self.pool.append(key_states, value_states)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.pool.length


class PooledCache(Cache):
    """Full-attention cache of as many layers as the model asks for, which can step back.

    Args:
        reserve: positions to make room for beyond those that are needed.
    """

    def __init__(self, reserve: int) -> None:
        super().__init__(layer_class_to_replicate=lambda: _PooledLayer(reserve))

    @property
    def length(self) -> int:
        """Positions that were read."""
        return self.layers[0].get_seq_length()

    def continuing(self, reserve: int) -> PooledCache:
        """A copy to go on with; this one stays as it is."""
        copy = PooledCache(0)
        for layer in self.layers:
            copy._append(layer.keys, layer.values, reserve)
        return copy

    def unpacked(self, rows: Tensor, places: Tensor, reserve: int) -> PooledCache:
        """The cache of prompts that were read side by side in the rows of this one.

        Args:
            rows: int64 [B], which row each prompt lies in.
            places: int64 [B, S], where in that row each of its positions lies.
            reserve: positions to make room for beyond S.
        """
        copy = PooledCache(0)
        for layer in self.layers:
            # [B, S, H, d]
            keys, values = (
                each.transpose(1, 2)[rows[:, None], places] for each in (layer.keys, layer.values)
            )
            copy._append(keys.transpose(1, 2), values.transpose(1, 2), reserve)
        return copy

    def _append(self, keys: Tensor, values: Tensor, reserve: int) -> None:
        own = _PooledLayer(keys.shape[2] + reserve)
        own.update(keys, values)
        own.pool.reserve = reserve
        self.layers.append(own)

    def rewind(self, length: int) -> None:
        """Forget all but the first positions."""
        for layer in self.layers:
            layer.pool.length = length
