"""One stand for all cases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.stand import Stand, workroom


@pytest.fixture(scope="package")
def stand() -> Iterator[Stand]:
    with workroom() as room, Stand(Path(room)).ready() as made:
        yield made
