"""One item under one method, whose answer is still decoded beside others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data.inputs import Item
from eval.item.after import After
from eval.variants import Variant


@dataclass
class Pending:
    """One item under one method, all but its answer.

    Attributes
    ----------
    record : what will be kept, without ``prediction``, scores and TPOT.
    after : its answer in the making, and what its tokens take.
    full : the full prefill's answer.
    """

    item: Item
    variant: Variant
    record: dict[str, Any]
    after: After
    full: str

    @property
    def done(self) -> bool:
        return self.after.done
