"""Attention of scattered query rows over a whole prompt: one signature, a back end per device.

A back end is a class that is built once per pass from the rows' positions and then called by every
decoder layer through the library's attention interface (``rows=`` travels as a keyword argument of
the decoder layer). Every back end agrees with :class:`~models.attention.masked.MaskedRows` within
the dtype's rounding. A name may go on with the form in which scattered rows are attended:
``flashinfer:paged``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.attention import blocked, native
from models.attention.blocked import BlockedRows
from models.attention.flashinfer_rows import FlashInferRows, obstacle
from models.attention.kernels import FORMS
from models.attention.masked import CausalRows, MaskedRows, Rows
from models.attention.native import NativeRows
from models.errors import UserError

INTERFACE = "kvfuse"

BACKENDS: dict[str, Callable[..., Rows]] = {
    "native": NativeRows,
    "blocked": BlockedRows,
    "sdpa": MaskedRows,
    "flashinfer": FlashInferRows,
    **{f"flashinfer:{form}": partial(FlashInferRows, form=form) for form in FORMS},
}


def choose_backend(
    device: torch.device, dtype: torch.dtype, head_dim: int, requested: str = "auto"
) -> str:
    """Name the back end: on a CPU ``native`` or else ``blocked``, on CUDA ``flashinfer``.

    Each where it can run, and masked ``sdpa`` where none can. To find out may take some seconds,
    once on a machine: ``native`` is compiled then.

    Raises
    ------
    UserError : unknown name, or a back end that cannot run here.
    """
    if requested == "auto":
        if device.type == "cpu":
            if native.obstacle(dtype, head_dim) is None:
                return "native"
            return "sdpa" if blocked.obstacle() else "blocked"
        return "sdpa" if obstacle(device, dtype, head_dim) else "flashinfer"
    if requested not in BACKENDS:
        raise UserError(f"unknown back end BACKEND={requested}: use auto, {', '.join(BACKENDS)}")
    if requested in ("native", "blocked") and device.type != "cpu":
        raise UserError(f"BACKEND={requested} runs on a CPU, the model is on {device.type}")
    library, _, form = requested.partition(":")
    reason = blocked.obstacle() if requested == "blocked" else None
    if requested == "native":
        reason = native.obstacle(dtype, head_dim)
    if library == "flashinfer":
        reason = obstacle(device, dtype, head_dim, form)
    if reason:
        raise UserError(f"BACKEND={requested} cannot be used: {reason}")
    return requested


def rows_for(backend: str, positions: Tensor, n_keys: int, host: np.ndarray | None = None) -> Rows:
    """Prepare one pass of sorted ``positions`` over ``n_keys`` keys for the named back end.

    ``host`` are the positions on the host, where somebody has them: what plans there need not ask
    the device again.
    """
    if len(positions) == n_keys > 1 and backend in ("blocked", "sdpa"):
        return CausalRows()
    if host is not None and backend.startswith("flashinfer"):
        return BACKENDS[backend](positions, n_keys, host=host)
    return BACKENDS[backend](positions, n_keys)


def segment_for(backend: str, length: int, front: int, device: torch.device) -> Rows:
    """A segment that is captured: ``length`` rows, which see ``front`` keys before their own.

    Whatever attends online, it is the project's own kernel or PyTorch's: the bytes of a chunk are
    the same for all back ends of a GPU.
    """
    n_keys = front + length
    positions = torch.arange(front, n_keys, device=device)
    return rows_for("native" if backend == "native" else "sdpa", positions, n_keys)


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    rows: Rows,
    **_: Any,
) -> tuple[Tensor, None]:
    return rows.attend(query, key, value, scaling), None


def install(model: Any) -> None:
    """Route ``model``'s attention through ``rows=``, by the library's own registration."""
    from transformers import AttentionInterface  # brings all of its models' code in

    AttentionInterface.register(INTERFACE, _attention)
    model.set_attn_implementation(INTERFACE)
