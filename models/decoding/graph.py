"""One token after another by replaying a CUDA graph: the host asks the device once a token.

A decode step is some thousand small kernels, and asking for them takes longer than what they do.
A graph repeats them as they were recorded: at fixed addresses and over a fixed number of keys, so
the token, its position and what it may see are tensors on the device, and keys behind it are
masked. Elsewhere than on CUDA the same step runs as it stands.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from models.kv.cache import FusedCache
from models.modules import Modules

# A graph for every so many keys: a finer one is recorded more often, a coarser reads more of them.
BUCKET = 1024
WARM_UPS = 2


class StaticRow:
    """One row that sees the keys up to its position, out of a fixed number.

    The query heads of a group are rows over their keys' head, so that no key is repeated.

    Parameters
    ----------
    position : int64 ``[1]``, on the device; read when the row attends.
    """

    def __init__(self, position: Tensor, n_keys: int) -> None:
        self.position = position
        self.keys = torch.arange(n_keys, device=position.device)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attend ``[1, H, 1, D]`` queries over ``[1, H_kv, n, D]`` keys; gives ``[1, 1, H, D]``."""
        _, heads, _, dim = query.shape
        grouped = query.reshape(1, key.shape[1], -1, dim)
        mask = (self.keys <= self.position).expand(1, 1, grouped.shape[2], -1)
        out = sdpa(grouped, key, value, attn_mask=mask, scale=scale)
        return out.reshape(1, 1, heads, dim)


class Steps:
    """Greedy steps over one cache, recorded once.

    Attributes
    ----------
    logits : float32 ``[1, vocabulary]`` of the latest step.
    """

    def __init__(self, modules: Modules, cache: FusedCache, n_keys: int) -> None:
        device = modules.device
        self.modules, self.cache, self.n_keys = modules, cache, n_keys
        self.place = _place(cache.kv)
        self.token = torch.zeros(1, dtype=torch.int64, device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        every = torch.arange(n_keys, device=device)[None]
        self.cos, self.sin = modules.rotary(modules.embed.weight, every)
        self.logits = torch.empty(1, modules.config.vocab_size, device=device)
        self.graph: Any = None

    def fits(self, n_keys: int) -> bool:
        """Whether these steps are over so many keys, and the cache lies where it lay."""
        return self.n_keys == n_keys and self.place == _place(self.cache.kv)

    def begin(self, token: int, position: int) -> None:
        """Say what the next step continues from; records the graph where there is none yet.

        The row at ``position`` is written meanwhile, as the first step will do again.
        """
        if self.graph is None and self.modules.device.type == "cuda":
            self._record(position)
        self.token.fill_(token)
        self.position.fill_(position)

    def _record(self, position: int) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):  # what allocates or chooses kernels does so before
                self.position.fill_(position)
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        self.graph = graph

    def advance(self) -> int:
        """The next token; its own key and value are in the cache after the step that follows."""
        if self.graph is None:
            self._step()
        else:
            self.graph.replay()
        return int(self.token)

    def _step(self) -> None:
        position = self.position
        embeddings = (self.cos[:, position], self.sin[:, position])
        lengths = self.cache.lengths
        for held in self.cache.layers:
            held.place(position, self.n_keys)
        rows = StaticRow(position, self.n_keys)
        hidden = self.modules.embed(self.token[None])
        for layer in self.modules.layers:
            hidden = layer(
                hidden, position_embeddings=embeddings, past_key_values=self.cache, rows=rows
            )
        self.cache.lengths = lengths  # rows behind the position are none of the prompt's
        self.logits.copy_(self.modules.logits(hidden[0]))
        self.token.copy_(self.logits.argmax(-1))
        position.add_(1)


def _place(kv: Tensor) -> tuple[int, torch.Size, tuple[int, ...]]:
    """Where each row lies: a larger buffer may begin at the address of one that was freed."""
    return kv.data_ptr(), kv.shape, kv.stride()


def keys_for(tokens: int) -> int:
    """Keys that steps up to so many tokens are recorded over."""
    return -(-tokens // BUCKET) * BUCKET
