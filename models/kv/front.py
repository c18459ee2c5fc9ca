"""What stands in front of segments while they are captured, computed once for all of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from models.attention.registry import segment_for
from models.finite import require_finite
from models.modules import Modules

KEPT = 4  # fronts in memory: a data set has one, and some for the items that it was taken from


class Front:
    """Tokens in front of segments, run once at positions 0 .. C − 1.

    Attributes
    ----------
    ids : the C tokens. kv : ``[2, L, H_kv, C, D]``, keys after RoPE, as segments attend over them.

    Raises
    ------
    NotFinite : its KVs hold NaN or infinite values.
    """

    def __init__(self, modules: Modules, ids: Sequence[int]) -> None:
        self.ids = tuple(ids)
        self.kv = torch.empty(
            modules.kv_shape(len(self)), dtype=modules.dtype, device=modules.device
        )
        with torch.inference_mode():
            hidden = modules.embed(torch.tensor([self.ids], device=modules.device))
            positions = torch.arange(len(self), device=modules.device)
            rotary = modules.rotary(hidden, positions[None])
            rows = segment_for(modules.backend, len(self), 0, modules.device)
            for layer in modules.layers:
                hidden = layer(
                    hidden, position_embeddings=rotary, rows=rows, past_key_values=_Keeping(self)
                )
        require_finite(self.kv, "the KVs of what stands in front of the chunks")

    def __len__(self) -> int:
        return len(self.ids)


class Fronts:
    """The fronts that were asked for last, so that items which share one have it computed once."""

    def __init__(self, modules: Modules) -> None:
        self._modules = modules
        self._kept: OrderedDict[tuple[int, ...], Front] = OrderedDict()

    def of(self, wanted: Sequence[tuple[int, ...]]) -> Asked:
        """The fronts of these tokens, in order; each is made when it is asked for."""
        return Asked(self, wanted)

    def one(self, ids: tuple[int, ...]) -> Front | None:
        """The front of these tokens; None where there are none."""
        if not ids:
            return None
        found = self._kept.pop(ids, None)
        self._kept[ids] = found or Front(self._modules, ids)
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return self._kept[ids]


class Asked(Sequence[Front | None]):
    """Fronts that are made when they are asked for: an item may have one for each segment."""

    def __init__(self, fronts: Fronts, wanted: Sequence[tuple[int, ...]]) -> None:
        self._fronts = fronts
        self.wanted = wanted

    def __len__(self) -> int:
        return len(self.wanted)

    def __getitem__(self, place: Any) -> Any:
        return self.one(self.wanted[place])

    def one(self, ids: tuple[int, ...]) -> Front | None:
        """The front of these tokens; None where there are none."""
        return self._fronts.one(ids)


class _Keeping:
    """Takes down what each layer would cache."""

    def __init__(self, front: Front) -> None:
        self.kv = front.kv

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        self.kv[0, layer], self.kv[1, layer] = key[0], value[0]
        return key, value


class Behind:
    """Keys and values of a front, and of a segment behind it.

    In the place of the library's cache: it is shown the segment's rows, ``[1, H_kv, n, D]``, and
    gives ``[1, H_kv, C + n, D]``.
    """

    def __init__(self, front: Front, length: int) -> None:
        self.front = front
        _, _, heads, _, dim = front.kv.shape
        self.kv = front.kv.new_empty(2, heads, len(front) + length, dim)

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        self.kv[:, :, : len(self.front)] = self.front.kv[:, layer]
        self.kv[0, :, len(self.front) :] = key[0]
        self.kv[1, :, len(self.front) :] = value[0]
        return self.kv[0][None], self.kv[1][None]
