"""What a selector may ask for, computed on demand, once, and continued by the engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from models.errors import UserError
from models.flight import Flight
from models.kv.cache import FusedCache
from models.modules import Modules
from models.prompt import Headers, Prompt
from models.truth import Truth
from models.tuning import whole_tiles

NO_HEADERS = Headers()


class CheckLayer:
    """Fresh queries, keys and values of the rows in flight at one layer, beside the cached ones.

    Everything is computed when asked for, once, and before the flight goes on. Fresh states come
    from the rows' hidden states in context.

    Attributes
    ----------
    positions : ``[R]`` sorted global positions of the rows: documents, then the question.
    documents : ``[R - q]`` those of them that are document positions.
    """

    def __init__(self, flight: Flight, n_question: int) -> None:
        self._flight = flight
        self._n_question = n_question
        self.positions = flight.positions
        self.documents = flight.positions[: len(flight.positions) - n_question]

    @cached_property
    def queries(self) -> Tensor:
        """Post-RoPE queries of the question's rows, ``[H, q, D]``."""
        return self._flight.fresh("q", slice(len(self.documents), None))

    @cached_property
    def keys(self) -> Tensor:
        """Post-RoPE fresh keys, ``[H_kv, R, D]``."""
        return self._flight.fresh("k")

    @cached_property
    def values(self) -> Tensor:
        """Fresh values, ``[H_kv, R, D]``."""
        return self._flight.fresh("v")

    def cached(self, kind: int) -> Tensor:
        """Cached post-RoPE keys (``kind`` 0) or values (1) of the same rows, ``[H_kv, R, D]``."""
        return self._flight.cache.rows(kind, self._flight.layer, self._flight.place.slots)


class QuestionLayer:
    """The question at one layer of a question pass, over the cached keys of all before it.

    Attributes
    ----------
    queries : ``[H, q, D]``, fresh, post-RoPE.
    keys : ``[H_kv, N, D]``, post-RoPE: cached for prefix and documents, fresh for the question.

    Parameters
    ----------
    whole : the same rows over all keys, where ``flight`` ran over some of them.
    """

    def __init__(self, flight: Flight, whole: Flight | None = None) -> None:
        whole = whole or flight
        self.queries = flight.fresh("q")
        place = whole.place
        self.keys = whole.cache.rows(0, flight.layer, slice(place.length))
        self.keys[:, place.slots] = flight.fresh("k")


class Probe:
    """One item's view for a selector: sizes for free, states at the price of computing them.

    Attributes
    ----------
    item_id : the item's name, for selectors that are told positions.
    prompt : the item's ids and spans.
    rate, budget : ``r``, and ``k``, how many document positions may be recomputed; fewer than
        ``r`` says where rows are to fill whole tiles, see :mod:`models.tuning`.
    candidates : ``[|S|]`` document positions, sorted.
    generator : seeded by run and item; for controls.
    headers : what stood in front of the chunks when they were captured.
    n_layers, scale : of the model; attention logits are multiplied by ``scale``.
    flight : the rows in flight once a layer was checked, else None; the engine goes on with it.
    """

    def __init__(
        self,
        prompt: Prompt,
        rate: float,
        launch: Callable[[Tensor], Flight],
        modules: Modules,
        cache: FusedCache,
        generator: torch.Generator,
        scores: Callable[[str], Tensor] | None = None,
        truth: Truth | None = None,
        item_id: str = "",
        headers: Headers = NO_HEADERS,
    ) -> None:
        self.item_id = item_id
        self.headers = headers
        self.prompt = prompt
        self.rate = rate
        first, end = prompt.documents
        question = prompt.question[1] - prompt.question[0]
        self.budget = whole_tiles(prompt.budget(rate), end - first, question, modules.tile)
        self.device = modules.device
        self.n_layers = len(modules.layers)
        self.scale = modules.scale
        self.generator = generator
        self.candidates = torch.arange(*prompt.documents, device=modules.device)
        self.flight: Flight | None = None
        self._question: Flight | None = None
        self._glances: list[Flight] = []
        self._launch = launch
        self._cache = cache
        self._scores = scores
        self._truth = truth

    @property
    def n_question(self) -> int:
        """Tokens of the question."""
        return self.prompt.question[1] - self.prompt.question[0]

    @property
    def exact(self) -> int:
        """How many of the documents' first rows have the prompt's own KVs cached.

        Those of the first chunk, where it was captured behind what stands before it in the prompt.
        """
        if not (self.headers.exact and self.prompt.chunks):
            return 0
        start, end = self.prompt.chunks[0]
        return end - start

    def check(self, layer: int) -> CheckLayer:
        """Run documents and question densely through the layers below ``layer`` and stop there.

        The first call starts with all document and question positions; later calls go on, deeper,
        with the rows that :meth:`keep` left.
        """
        if self.flight is None:
            self.flight = self._launch(self._span(self.prompt.documents[0], len(self.prompt)))
        self.flight.climb(layer)
        return CheckLayer(self.flight, self.n_question)

    def keep(self, positions: Tensor) -> None:
        """Go on with these document positions (sorted, in flight) and the question only."""
        assert self.flight is not None, "nothing is in flight before the first check"
        self.flight.keep(torch.cat([positions, self._span(*self.prompt.question)]))

    def question(self, layer: int) -> QuestionLayer:
        """Run the question alone over the cached KVs through the layers below ``layer``.

        Later calls go on, deeper. No document row is computed. To be asked before :meth:`check`,
        which overwrites cached KVs below its layer.
        """
        if self._question is None:
            self._question = self._launch(self._span(*self.prompt.question))
        self._question.climb(layer)
        return QuestionLayer(self._question)

    def glance(self, layer: int, anchors: Tensor) -> QuestionLayer:
        """As :meth:`question`, but below ``layer`` it sees the prefix and ``anchors`` only.

        Parameters
        ----------
        anchors : ``[A]`` sorted document positions that stand for all.
        """
        whole = self._launch(self._span(*self.prompt.question))
        flight = whole.over(torch.cat([self._span(*self.prompt.prefix), anchors]), layer)
        self._glances.append(flight)
        flight.climb(layer)
        return QuestionLayer(flight, whole)

    def cached(self, kind: int, layer: int) -> Tensor:
        """Cached post-RoPE keys (``kind`` 0) or values (1) of the documents, ``[H_kv, |S|, D]``."""
        return self._cache.rows(kind, layer, slice(*self.prompt.documents))

    def scores(self, name: str) -> Tensor:
        """Scores found offline by that name, float32 ``[|S|]``, read when asked for.

        Raises
        ------
        UserError : stage 2 has not kept them, or they belong to another chunking.
        """
        if self._scores is None:
            raise UserError(f"this item has no {name} scores; keep them when precomputing")
        return self._scores(name)[slice(*self.prompt.documents)].to(self.device)

    @property
    def truth(self) -> Truth:
        """States of this prompt's full prefill, for oracles."""
        if self._truth is None:
            raise UserError("an oracle needs the full prefill of its item, and none was given")
        return self._truth

    @property
    def looked(self) -> bool:
        """Whether a layer was run for the choice: the question's KVs were overwritten then."""
        return any([self.flight, self._question, self._glances])

    @property
    def asked(self) -> list[tuple[Tensor, int]]:
        """Rows that ran for the choice alone, and through how many layers."""
        ran = [*([self._question] if self._question else []), *self._glances]
        return [group for flight in ran for group in flight.passes]

    def _span(self, start: int, end: int) -> Tensor:
        return torch.arange(start, end, device=self.device)
