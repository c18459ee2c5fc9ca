"""What a prompt's segments are captured as: their tokens, and what stands in front of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.prompt import Prompt

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """One segment, and all that its KVs depend on besides the model.

    Attributes
    ----------
    ids : the segment's own tokens. header : tokens that are run with it, whose rows are dropped.
    front : tokens that were run before it, by themselves, see :class:`models.kv.front.Front`.
    """

    ids: Ids
    header: Ids = ()
    front: Ids = ()

    def __len__(self) -> int:
        return len(self.ids)


def pieces(prompt: Prompt, sink: Sequence[int], fronts: Sequence[Ids] = ()) -> list[Piece]:
    """The segments of a prompt in order, empty ones among them.

    The segment that begins the prompt has nothing in front: its KVs are exactly the prompt's.

    Parameters
    ----------
    sink : stands before all others, where there are no fronts.
    fronts : the first stands before the first chunk, the second before the next segment and so on,
        the last before all that are left.
    """
    found = []
    for index, (start, end) in enumerate(prompt.segments):
        ids = prompt.ids[start:end]
        if start == 0:
            found.append(Piece(ids))
        elif fronts:
            found.append(Piece(ids, front=fronts[min(index, len(fronts)) - 1]))
        else:
            found.append(Piece(ids, header=tuple(sink)))
    return found
