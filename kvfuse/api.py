"""The public API: load a model, capture documents once, fuse prompts from them, decode.

from kvfuse import load_model

model = load_model("smollm2-135m")
prompt = model.prompt(documents, question)
captured = model.capture(prompt)
fused = model.fuse(prompt, captured, "debug", rate=0.15)
print(model.decode(fused, max_new_tokens=32))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from data.context import Context
from models import correctors, selectors
from models.correctors import BaseCorrector
from models.engine import Engine, Prefill
from models.gate import reader
from models.kv.capture import Captured, capture
from models.kv.front import Fronts
from models.load.tokenizer import Frame, encode, frame
from models.load.weights import LoadedModel, load
from models.prompt import Prompt
from models.selectors import BaseSelector
from stage.model import Unloaded


@dataclass
class Model:
    """A loaded model with its tokenizer, its chat frame and one engine around it.

    One prefill at a time: its cache lasts until the next one begins.
    """

    unloaded: Unloaded
    loaded: LoadedModel
    engine: Engine
    frame: Frame

    def prompt(self, documents: Sequence[str], question: str, instruction: str = "") -> Prompt:
        """Token ids of the whole prompt, every document a chunk of its own.

        A special token's name in a document or question is ordinary text.
        """
        tokenizer = self.unloaded.tokenizer
        head = encode(tokenizer, self.frame.header_text + instruction)
        chunks = [encode(tokenizer, text, foreign=True) for text in documents]
        asked = encode(tokenizer, question, foreign=True) + self.frame.footer
        return Prompt.join(head, [chunk for chunk in chunks if chunk], asked)

    def capture(
        self, prompt: Prompt, scores: Sequence[str] = (), context: str = "sink"
    ) -> Captured:
        """Unrotated keys and values of every segment, each encoded by itself.

        ``scores`` names what else to keep: ``surprisal`` (surprisal_chunk), ``sinks`` (attnlink).
        ``context`` is what ``CONTEXT=`` takes, with a text of its own: ``primed:256:essay``.
        """
        chosen, modules = Context.parse(context), self.engine.modules
        tokenizer = self.unloaded.tokenizer
        sources = chosen.sources([], lambda text: encode(tokenizer, text, foreign=True))
        fronts = Fronts(modules).of(chosen.fronts(prompt, self.frame.sink, sources))
        return capture(modules, prompt, self.frame.sink, scores, fronts)

    def full_prefill(self, prompt: Prompt) -> Prefill:
        """Every token in context: the reference."""
        return self.engine.full_prefill(prompt)

    def fuse(
        self,
        prompt: Prompt,
        captured: Captured,
        method: str | BaseSelector,
        rate: float = 0.15,
        seed: int = 0,
        correct: str | BaseCorrector | None = None,
    ) -> Prefill:
        """Cached KVs, with the tokens that a method chooses recomputed in context.

        Parameters
        ----------
        method : a selector, or its spec as ``REUSE`` takes it: ``debug:check=cached``.
        rate : share of document tokens that it may recompute, 0 to 1.
        correct : a corrector of the other rows, or its spec as ``CORRECT`` takes it: ``shift``.
        """
        selector = selectors.build(method) if isinstance(method, str) else method
        generator = torch.Generator().manual_seed(seed)
        return self.engine.fused_prefill(
            prompt,
            reader(captured.kv),
            selector,
            rate,
            generator,
            captured.scores.__getitem__,
            headers=captured.headers,
            corrector=correctors.build(correct) if isinstance(correct, str) else correct,
        )

    def decode(self, prefill: Prefill, max_new_tokens: int = 64) -> str:
        """The greedy answer after the latest prefill."""
        found = self.engine.decode(prefill, max_new_tokens, self.loaded.stop_ids)
        return str(self.unloaded.tokenizer.decode(found.tokens, skip_special_tokens=True))


def load_model(
    model: str, device: str = "auto", dtype: str = "auto", backend: str = "auto", chat: bool = True
) -> Model:
    """Load what ``MODEL=`` names: an alias, hub id, folder or ``.gguf`` file.

    Raises
    ------
    UserError : it cannot be had, is not supported, or does not fit into memory.
    """
    unloaded = Unloaded.find(model)
    loaded = load(unloaded.source, unloaded.tokenizer, device, dtype)
    return Model(
        unloaded,
        loaded,
        Engine(loaded.model, backend),
        frame(unloaded.tokenizer, unloaded.config, chat),
    )
