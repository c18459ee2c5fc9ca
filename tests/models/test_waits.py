"""How often a prefill makes the host wait for the device: each time, a GPU runs out of work.

Counted on a CPU, where the same calls are made. What FlashInfer's own functions wait for is not.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from models.engine import Engine
from models.gate import reader
from models.kv.capture import capture
from models.selectors import make
from models.timing import Stopwatch
from tests.conftest import build, random_prompt
from tests.models import fake_flashinfer
from tests.models.library_states import SINK
from tests.models.test_flashinfer import fake  # noqa: F401 - a fixture

READS = {
    "item", "tolist", "cpu", "nonzero", "argwhere", "masked_select", "unique", "equal",
    "__bool__", "__int__", "__float__", "__index__",
}  # fmt: skip


class Waits(TorchFunctionMode):
    """Counts, while a clock runs, what nobody can answer before the device has come so far."""

    def __init__(self, monkeypatch) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.running = False
        begin, total = Stopwatch.__init__, Stopwatch.total

        def started(watch, *how):
            begin(watch, *how)
            self.running = True

        def stopped(watch):
            self.running = False
            return total(watch)

        monkeypatch.setattr(Stopwatch, "__init__", started)
        monkeypatch.setattr(Stopwatch, "total", stopped)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", str(func)), kwargs or {}
        ours = sys._getframe(1).f_code.co_filename != fake_flashinfer.__file__
        if self.running and ours and (name in READS or _of_unknown_size(name, args, kwargs)):
            self.counts[name] += 1
        return func(*args, **kwargs)


def _of_unknown_size(name: str, args: Any, kwargs: Any) -> bool:
    """Whether what comes out is as large as numbers on the device say."""
    if name == "repeat_interleave":
        return isinstance(args[1], torch.Tensor) and "output_size" not in kwargs
    index = args[1] if name == "__getitem__" else ()
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, torch.Tensor) and part.dtype == torch.bool for part in parts)


@pytest.mark.parametrize("form", ["single", "paged"])
@pytest.mark.parametrize(("method", "most"), [("no", 2), ("random", 3), ("debug", 5)])
def test_the_host_waits_as_often_as_the_page_says(fake, monkeypatch, method, form, most):  # noqa: F811
    """And no more often where there are more layers."""
    prompt = random_prompt(9, [70, 70, 33], 17)
    for n_layers in (2, 6):
        engine = Engine(build("llama", num_hidden_layers=n_layers))
        engine.backend = f"flashinfer:{form}"
        kv = capture(engine.modules, prompt, SINK).kv
        with monkeypatch.context() as patch, Waits(patch) as waits:
            if method == "no":
                engine.full_prefill(prompt)
            else:
                generator = torch.Generator().manual_seed(0)
                engine.fused_prefill(prompt, reader(kv), make(method), 0.3, generator)
        assert sum(waits.counts.values()) == most, waits.counts
