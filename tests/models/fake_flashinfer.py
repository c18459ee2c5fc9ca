"""FlashInfer's contract in plain PyTorch and numpy, its traps included.

Sizes that the library would not check are checked here, and what it reads is read by the same
arithmetic: bits by offset, pages by table, offsets of masks in bits where it has them in bits.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """``q [R, H, D]`` over ``k, v [n, H_kv, D]``: the output, and its log-sum-exp to base 2."""
    group = q.shape[1] // k.shape[1]
    keys, values = (x.repeat_interleave(group, 1).double() for x in (k, v))
    logits = torch.einsum("rhd,nhd->hrn", q.double(), keys) * scale
    logits = logits.masked_fill(~mask, -math.inf)
    lse = torch.logsumexp(logits, -1)
    weights = (logits - lse[..., None]).exp().nan_to_num(0.0)  # a row without a key gets zeros
    out = torch.einsum("hrn,nhd->rhd", weights, values)
    return out.to(q.dtype), (lse.T / math.log(2)).float().contiguous()


def bottom_right(rows: int, keys: int) -> Tensor:
    return torch.ones(rows, keys, dtype=torch.bool).tril(keys - rows)


def unpacked(packed: Tensor, offset: int, rows: int, keys: int) -> Tensor:
    """A request's mask, from the byte at which the library would look for it."""
    size = -(-rows * keys // 8)
    assert offset + size <= packed.numel(), "the kernel would read past the mask"
    taken = packed[offset : offset + size].numpy()
    bits = np.unpackbits(taken, bitorder="little")[: rows * keys]
    return torch.from_numpy(bits.astype(bool)).view(rows, keys)


class Wrapper:
    """``BatchPrefillWithPagedKVCacheWrapper``."""

    made: ClassVar[int] = 0

    def __init__(self, float_workspace_buffer, kv_layout="NHD", *, backend="auto"):
        assert float_workspace_buffer.dtype == torch.uint8
        assert not float_workspace_buffer.is_inference(), "it could not be written outside"
        assert kv_layout == "HND"
        type(self).made += 1
        self.backend = backend

    def plan(
        self,
        qo_indptr,
        paged_kv_indptr,
        paged_kv_indices,
        paged_kv_last_page_len,
        num_qo_heads,
        num_kv_heads,
        head_dim_qk,
        page_size,
        *,
        custom_mask=None,
        packed_custom_mask=None,
        causal=False,
        sm_scale=None,
        q_data_type="float16",
        kv_data_type=None,
        fixed_split_size=None,
        disable_split_kv=False,
    ):
        tables = (qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len)
        assert all(table.dtype == torch.int32 for table in tables)
        assert all(table.device.type == "cpu" for table in (*tables[:2], tables[3]))
        assert len(qo_indptr) == len(paged_kv_indptr) == len(paged_kv_last_page_len) + 1
        assert fixed_split_size is None or fixed_split_size > 0
        self.rows, self.pages, self.indices, last = (table.tolist() for table in tables)
        counts = np.diff(self.pages)
        assert np.diff(self.rows).min() > 0
        assert counts.min() > 0, "a request without keys"
        assert self.pages[-1] == len(self.indices)
        assert all(1 <= length <= page_size for length in last)
        self.lengths = (counts - 1) * page_size + np.array(last)
        self.shape = (num_qo_heads, num_kv_heads, head_dim_qk)
        self.page_size, self.scale, self.dtype = page_size, sm_scale, q_data_type
        assert kv_data_type == q_data_type
        bits = np.diff(self.rows) * self.lengths
        offsets = np.append(0, np.cumsum(bits))
        if packed_custom_mask is None and custom_mask is not None:
            assert custom_mask.dtype == torch.bool
            assert custom_mask.shape == (offsets[-1],)
            parts = np.split(custom_mask.numpy(), offsets[1:-1])
            packed = [np.packbits(part, bitorder="little") for part in parts]
            offsets = np.append(0, np.cumsum([len(part) for part in packed]))
            packed_custom_mask = torch.from_numpy(np.concatenate(packed))
        if packed_custom_mask is not None:
            assert self.backend == "fa2", "a custom mask works in fa2 alone"
        self.packed, self.offsets, self.causal = packed_custom_mask, offsets, causal

    def run(self, q, paged_kv_cache, *, out=None, return_lse=False):
        keys, values = paged_kv_cache
        assert q.shape[0] == self.rows[-1]
        assert (q.shape[1], keys.shape[1], q.shape[2]) == self.shape
        assert keys.shape == values.shape
        assert keys.shape[2] == self.page_size
        assert keys.stride() == values.stride(), "other strides need another module"
        assert keys.stride(-1) == 1
        assert q.dtype == keys.dtype == self.dtype
        assert max(self.indices) < len(keys)
        out = torch.zeros_like(q) if out is None else out
        lse = torch.empty(q.shape[:2], dtype=torch.float32)
        for request, length in enumerate(self.lengths.tolist()):
            rows = slice(self.rows[request], self.rows[request + 1])
            table = self.indices[self.pages[request] : self.pages[request + 1]]
            k, v = (x[table].transpose(1, 2).flatten(0, 1)[:length] for x in (keys, values))
            count = rows.stop - rows.start
            if self.packed is not None:
                mask = unpacked(self.packed, int(self.offsets[request]), count, length)
            elif self.causal:
                mask = bottom_right(count, length)
            else:
                mask = torch.ones(count, length, dtype=torch.bool)
            out[rows], lse[rows] = attention(q[rows], k, v, mask, self.scale)
        FakeFlashInfer.calls.append("paged")
        return (out, lse) if return_lse else out


class FakeFlashInfer:
    """Stands in for the module ``flashinfer``."""

    calls: ClassVar[list[str]] = []
    BatchPrefillWithPagedKVCacheWrapper = Wrapper

    @staticmethod
    def packbits(x, bitorder):
        assert x.dtype == torch.bool
        assert x.dim() == 1
        return torch.from_numpy(np.packbits(x.numpy(), bitorder=bitorder))

    @classmethod
    def single_prefill_with_kv_cache(
        cls,
        q,
        k,
        v,
        *,
        packed_custom_mask=None,
        causal=False,
        kv_layout="NHD",
        sm_scale=None,
        backend="auto",
    ):
        # Its fa3 kernel takes the sizes of an HND tensor for those of an NHD one.
        assert kv_layout == "NHD"
        assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
        rows, keys = q.shape[0], k.shape[0]
        if packed_custom_mask is None:
            assert causal
            assert keys >= rows
            mask = bottom_right(rows, keys)
        else:
            assert backend == "fa2"
            assert packed_custom_mask.numel() == -(-rows * keys // 8)
            mask = unpacked(packed_custom_mask, 0, rows, keys)
        cls.calls.append("causal" if packed_custom_mask is None else "single")
        return attention(q, k, v, mask, sm_scale)[0]

    @classmethod
    def single_decode_with_kv_cache(
        cls, q, k, v, *, kv_layout="NHD", use_tensor_cores=False, sm_scale=None
    ):
        assert kv_layout == "NHD"
        assert q.dim() == 2
        assert use_tensor_cores or (k.is_contiguous() and v.is_contiguous())
        cls.calls.append("decode")
        mask = torch.ones(1, k.shape[0], dtype=torch.bool)
        return attention(q[None], k, v, mask, sm_scale)[0][0]

    @staticmethod
    def merge_state_in_place(v, s, v_other, s_other):
        assert all(x.is_contiguous() for x in (v, s, v_other, s_other))
        assert v.shape == v_other.shape
        assert s.shape == s_other.shape == v.shape[:2]
        assert s.dtype == s_other.dtype == torch.float32
        assert v.shape[1] * v.shape[2] // 8 <= 1024, "more threads than a block may have"
        both = torch.stack([s, s_other]).double()
        weights = (both - both.amax(0)).exp2().nan_to_num(0.0)  # two empty states stay zero
        weights = weights / weights.sum(0).clamp_min(1e-300)
        merged = weights[0, ..., None] * v.double() + weights[1, ..., None] * v_other.double()
        v.copy_(merged.to(v.dtype))
        s.copy_(torch.logsumexp(both * math.log(2), 0).div(math.log(2)).float())
