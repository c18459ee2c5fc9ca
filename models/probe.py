"""What a selector may ask for, computed on demand, once, and continued by the engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from models.attention import rows_for
from models.cache import FusedCache
from models.errors import UserError
from models.modules import Modules
from models.spans import Prompt


class Flight:
    """Rows on their way through the decoder layers, over one fused cache.

    Parameters
    ----------
    ids, positions : ``[R]`` token ids of the rows, and their sorted global positions.
    rotary : ``(cos, sin)``, each ``[1, N, D]``, for all positions of the prompt.
    """

    def __init__(
        self,
        modules: Modules,
        cache: FusedCache,
        ids: Tensor,
        positions: Tensor,
        n_keys: int,
        rotary: tuple[Tensor, Tensor],
        backend: str,
    ) -> None:
        self.modules = modules
        self.cache = cache
        self.n_keys = n_keys
        self.rotary = rotary
        self.backend = backend
        self.layer = 0
        self.hidden = modules.embed(ids[None])
        self._prepare(positions)

    def keep(self, positions: Tensor) -> None:
        """Go on with these of the rows in flight only (sorted; each must be among them)."""
        if len(positions) < len(self.positions):
            self.hidden = self.hidden[:, torch.searchsorted(self.positions, positions)]
            self._prepare(positions)

    def _prepare(self, positions: Tensor) -> None:
        """Attention rows, cache slots and rotary embeddings of these rows, for all layers."""
        first, last = int(positions[0]), int(positions[-1])
        contiguous = last - first + 1 == len(positions)
        self.positions = positions
        self.slots = slice(first, last + 1) if contiguous else positions
        self.rows = rows_for(self.backend, positions, self.n_keys)
        self.cos, self.sin = (part[:, self.slots] for part in self.rotary)

    def run_to(self, layer: int) -> None:
        """Run the rows through the layers below ``layer``; their fresh K/V overwrite the cached."""
        self.cache.place(self.slots, self.n_keys)
        for module in self.modules.layers[self.layer : layer]:
            self.hidden = module(
                self.hidden,
                position_embeddings=(self.cos, self.sin),
                past_key_values=self.cache,
                rows=self.rows,
            )
        self.layer = layer

    def head(self) -> Tensor:
        """Logits of the last row only, ``[vocabulary]``, float32."""
        return self.modules.logits(self.hidden[0, -1]).float()


class CheckLayer:
    """Fresh queries, keys and values of the rows in flight at one layer, beside the cached ones.

    Everything is computed when asked for, once. Fresh states come from the rows' hidden states in
    context; ``positions`` are the rows' ``[R]`` global positions.
    """

    def __init__(self, flight: Flight) -> None:
        self._flight = flight
        self.positions = flight.positions

    def _fresh(self, what: str, rows: slice) -> Tensor:
        flight = self._flight
        states = flight.modules.project(flight.layer, flight.hidden[:, rows], what)
        if what == "v":
            return states
        cos, sin = flight.cos[:, rows], flight.sin[:, rows]
        return apply_rotary_pos_emb(states[None], states[None], cos, sin)[0][0]

    def queries(self, count: int) -> Tensor:
        """Post-RoPE queries of the last ``count`` rows, ``[H, count, D]``."""
        return self._fresh("q", slice(len(self.positions) - count, None))

    @cached_property
    def keys(self) -> Tensor:
        """Post-RoPE fresh keys, ``[H_kv, R, D]``."""
        return self._fresh("k", slice(None))

    @cached_property
    def values(self) -> Tensor:
        """Fresh values, ``[H_kv, R, D]``."""
        return self._fresh("v", slice(None))

    def cached(self, kind: int) -> Tensor:
        """Cached post-RoPE keys (``kind`` 0) or values (1) of the same rows, ``[H_kv, R, D]``."""
        return self._flight.cache.kv[kind, self._flight.layer][:, self._flight.slots]


class Probe:
    """One item's view for a selector: sizes for free, states at the price of computing them.

    Attributes
    ----------
    prompt : the item's ids and spans.
    budget : ``k``, how many document positions may be recomputed.
    candidates : ``[|S|]`` document positions, sorted.
    generator : seeded by run and item; for controls.
    surprisal : float32 ``[N]`` or None when the item has no ``surprisal.pt``.
    flight : the rows in flight once a layer was checked, else None; the engine goes on with it.
    """

    def __init__(
        self,
        prompt: Prompt,
        rate: float,
        launch: Callable[[Tensor], Flight],
        device: torch.device,
        n_layers: int,
        generator: torch.Generator,
        surprisal: Tensor | None = None,
    ) -> None:
        self.prompt = prompt
        self.rate = rate
        self.budget = prompt.budget(rate)
        self.device = device
        self.n_layers = n_layers
        self.generator = generator
        self.surprisal = surprisal
        self.candidates = torch.arange(*prompt.documents, device=device)
        self.flight: Flight | None = None
        self._launch = launch

    def check(self, layer: int) -> CheckLayer:
        """Run documents and question densely through the layers below ``layer`` and stop there.

        The first call starts with all document and question positions; later calls go on, deeper,
        with the rows that ``keep`` left.
        """
        if not 0 <= layer < self.n_layers:
            raise UserError(
                f"check layer {layer} does not exist: the model has layers 0 to {self.n_layers - 1}"
            )
        if self.flight is None:
            everything = torch.arange(
                self.prompt.documents[0], len(self.prompt), device=self.device
            )
            self.flight = self._launch(everything)
        self.flight.run_to(layer)
        return CheckLayer(self.flight)
