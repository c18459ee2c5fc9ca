"""Mistakes in the engine that would still print plausible figures, and tests that must see them.

Plain data: what, file, text that occurs there once, what stands there instead, test files.
"""

from __future__ import annotations

Row = tuple[str, str, str, str, tuple[str, ...]]


def _in_file(file: str, tests: tuple[str, ...], *changes: tuple[str, str, str]) -> list[Row]:
    return [(what, file, text, new, tests) for what, text, new in changes]


CHOICE = "tests/models/test_choice.py"
EDGES = "tests/models/test_selector_edges.py"
EVICTING = "tests/models/test_evicting.py"
FINITE = "tests/models/test_finite.py"
GATE = "tests/models/test_gate.py"
GATES = "tests/models/test_gates.py"
LATEST = "tests/models/test_latest.py"
SELECTORS = "tests/models/test_selectors.py"
TIMING = "tests/models/test_timing.py"
TRUTH = "tests/models/test_truth.py"

MUTANTS: list[Row] = [
    *_in_file(
        "models/prompt.py",
        (EDGES,),
        ("a token more than the budget", "size * rate + 1e-9)", "size * rate + 1e-9) + 1"),
        ("29 of 100 become 28", "int(size * rate + 1e-9)", "int(size * rate)"),
        ("r is what is reused", "size * rate + 1e-9", "size * (1 - rate) + 1e-9"),
        ("r counts the whole prompt", "int(size * rate", "int(len(self) * rate"),
    ),
    *_in_file(
        "models/finite.py",
        (FINITE,),
        ("infinity is finite", "ends.isfinite().all()", "not ends.isnan().any()"),
        ("one part is looked at", "for part in parts for", "for part in parts[:1] for"),
        ("largest values are not looked at", "part.aminmax()]", "part.aminmax()[:1]]"),
        ("numbers are always finite", "return math.isfinite(values)", "return True"),
    ),
    *_in_file(
        "models/gate.py",
        (GATE, FINITE),
        ("the tolerance is ignored", "distance <= tolerance and (", "("),
        ("a gate passes on any check", "return all(check.passed", "return any(check.passed"),
        (
            "NaN is distance 0",
            "max(distances) if all(map(math.isfinite, distances)) else math.inf",
            "max(distances)",
        ),
        (
            "NaN is skipped",
            "            distances.append(math.nan)\n",
            "            pass\n",
        ),
        ("one equal answer is enough", "equal &= answer == tokens", "equal |= answer == tokens"),
        ("greedy answers do not matter", "(equal or not exact)", "(equal or True)"),
        ("half precision is held to equal answers", "(equal or not exact)", "equal"),
        ("nothing is read from memory", "self.read = self.item.ready", "self.item.ready"),
        (
            "one chunk is two",
            "engine, merged, sink, fronts, Path(folder)",
            "engine, prompt, sink, fronts, Path(folder)",
        ),
        (
            "r = 0 is held against r = 1",
            '.fuse("full", correctors.NONE, 0.0)',
            '.fuse("random", correctors.NONE, 1.0)',
        ),
        ("the first check runs at r = 0", "full, coded, [1.0]", "full, coded, [0.0]"),
        (
            "an answer is held against itself",
            "engine.follow(prefill, along).argmax(-1).tolist()",
            "list(along)",
        ),
        ("an item is cut to one chunk", "share = max(1, MAX_TOKENS // 2)", "share = MAX_TOKENS"),
    ),
    *_in_file(
        "models/prefilling.py",
        (FINITE, LATEST, TIMING, "tests/models/test_decode.py"),
        (
            "logits of a prefill are not looked at",
            '        require_finite(logits, "the logits")\n        require_finite(self.cache',
            "        require_finite(self.cache",
        ),
        (
            "KVs of a prefill are not looked at",
            '        require_finite(self.cache.kv[:, :, :, : len(prompt)], "the KVs")\n',
            "",
        ),
        ("the choice is charged to recomputing", 'watch.lap("select")', 'watch.lap("recompute")'),
        ("the head is charged to recomputing", 'watch.lap("head")', 'watch.lap("recompute")'),
        (
            "the head is not timed",
            "total = watch.total()",
            'total = watch.total() - watch.parts["head"]',
        ),
        (
            "the fused prefill's layers run twice",
            "            positions = choose(probe, selector)\n",
            "            positions = choose(probe, selector)\n            probe.flight = None\n",
        ),
    ),
    *_in_file(
        "models/prefilling.py",
        (GATES, "tests/models/test_transfer.py"),
        (
            "streamed keys stay unrotated",
            "                stream.prepare = lambda layer: rotate",
            "                lambda layer: rotate",
        ),
        (
            "cached keys stay unrotated",
            "                rotate_(kv[0], cos, sin)",
            "                pass",
        ),
    ),
    *_in_file(
        "models/latest.py",
        (FINITE, LATEST, TIMING, "tests/models/test_decode.py"),
        ("a stale prefill is decoded", "if prefill is not self._latest:", "if False:"),
        ("any prefill is observed", "or (full and not held.full)", ""),
        ("another prompt's truth is compared", "held.prompt != prompt", "False"),
        (
            "a failed prefill is the latest",
            "self._latest, self._behind = None, []",
            "self._behind = []",
        ),
        (
            "followed tokens outlive their prefill",
            "self._latest, self._behind = None, []",
            "self._latest = None",
        ),
    ),
    *_in_file(
        "models/decoding/greedy.py",
        (FINITE, LATEST, TIMING, "tests/models/test_decode.py"),
        (
            "decoded logits are not looked at",
            '        require_finite(logits, "the logits")\n',
            "",
        ),
        (
            "a stop token is part of the answer",
            "        if token in stop_ids:",
            "        if False:",
        ),
    ),
    *_in_file(
        "models/decoding/continuing.py",
        (FINITE, LATEST, TIMING, "tests/models/test_decode.py"),
        (
            "followed logits are not looked at",
            '            require_finite(rows[1], "the logits")\n',
            "",
        ),
        (
            "given tokens are believed",
            "if self._behind[: len(known) - 1] != list(known[:-1]):",
            "if False:",
        ),
        (
            "room for an answer is taken token by token",
            "            self.cache.reserve(end)\n            rotary",
            "            rotary",
        ),
        (
            "a token stands one place too far",
            "step(token, n + index)",
            "step(token, n + index + 1)",
        ),
    ),
    *_in_file(
        "models/timing.py",
        (TIMING,),
        (
            "the total is the sum of its parts",
            "elapsed = (time.perf_counter() - self._start) * 1e3",
            "elapsed = sum(self.parts.values())",
        ),
        (
            "the total does not wait",
            'device synchronised."""\n        synchronize(',
            'device synchronised."""\n        str(',
        ),
        (
            "what came before is charged",
            "        synchronize(device)\n        self._start",
            "        self._start",
        ),
        (
            "a cut on CUDA does not wait",
            "torch.cuda.current_stream(self.device).synchronize()",
            "pass",
        ),
        (
            "the clock is read before the device is done",
            "synchronize(self.device)\n        now = time.perf_counter()\n",
            "pass\n        now = time.perf_counter()\n        synchronize(self.device)\n",
        ),
        ("every part begins at the start", "        self._last = now\n", ""),
        ("a part keeps its last lap only", "self.parts[part] += (now", "self.parts[part] = (now"),
        (
            "CUDA is never waited for",
            'if device.type == "cuda":\n        torch',
            'if device.type == "cud":\n        torch',
        ),
    ),
    *_in_file(
        "models/flight.py",
        (TIMING, GATES, "tests/models/test_probe.py"),
        (
            "all rows go through the head",
            "self.modules.logits(self.hidden[0, -1])",
            "self.modules.logits(self.hidden[0])[-1]",
        ),
        (
            "a layer is left out",
            "for index in range(self.layer, layer):",
            "for index in range(self.layer + 1, layer):",
        ),
        (
            "rows that never ran are kept",
            "if (found != host).any() or (",
            "if False and (",
        ),
        (
            "a kept row gets another's states",
            "self.hidden = self.hidden[:, kept]",
            "self.hidden = self.hidden[:, : len(kept)]",
        ),
        ("values are rotated", 'if what == "v":', 'if what == "never":'),
    ),
    *_in_file(
        "models/probe.py",
        ("tests/models/test_probe.py", SELECTORS),
        (
            "the check is a layer too low",
            "self.flight.climb(layer)",
            "self.flight.climb(max(layer - 1, 0))",
        ),
        (
            "the prefix is in flight",
            "self._span(self.prompt.documents[0], len",
            "self._span(0, len",
        ),
        (
            "kept rows lose the question",
            "torch.cat([positions, self._span(*self.prompt.question)])",
            "positions",
        ),
        (
            "scores of the prefix come first",
            "self._scores(name)[slice(*self.prompt.documents)]",
            "self._scores(name)[: len(self.candidates)]",
        ),
        ("keys stand for values", "self._cache.rows(kind, layer,", "self._cache.rows(0, layer,"),
    ),
    *_in_file(
        "models/choice.py",
        (CHOICE, SELECTORS),
        (
            "the question is not added",
            "if selector.adds_question:  # behind",
            "if False:  # behind",
        ),
        ("positions stay unsorted", ".sort().values\n    trouble", "\n    trouble"),
        ("the budget is not held", "count > probe.budget", "False"),
        ("a token beyond the budget", "count > probe.budget", "count > probe.budget + 1"),
        ("repeats pass", "    if repeats:", "    if False:"),
        (
            "the prefix may be chosen",
            "allowed, whose = (first, last)",
            "allowed, whose = (0, last)",
        ),
        (
            "the question may be chosen twice",
            "allowed, whose = (first, last)",
            "allowed, whose = (first, n)",
        ),
        (
            "the last token may be left out",
            "if not len(positions) or high != n - 1:",
            "if not len(positions):",
        ),
        (
            "half a question after a check",
            "if probe.looked and asking < probe.n_question:",
            "if False:",
        ),
        ("fractions are positions", "if returned.dtype not in INTEGERS or", "if"),
    ),
    *_in_file(
        "models/foreign.py",
        (CHOICE,),
        (
            "a failure keeps its traceback",
            "    except Exception as error:",
            "    except KeyboardInterrupt as error:",
        ),
    ),
    *_in_file(
        "models/eviction/base.py",
        ("tests/models/test_eviction.py",),
        ("one score for all heads is each head's own", " and found.shape == shape", ""),
    ),
    *_in_file(
        "models/correction.py",
        ("tests/models/test_correctors.py",),
        (
            "one correction for all heads is each head's own",
            "if not fits or added.shape not in ((heads, width), (heads, length, width)):",
            "if not fits:",
        ),
    ),
    *_in_file(
        "models/selectors/base.py",
        (FINITE, EDGES, SELECTORS),
        ("NaN is a score", '    require_finite(scores, "the selector\'s scores")\n', ""),
        ("the worst are the best", "descending=True", "descending=False"),
        (
            "half precision is sorted",
            "if scores.dtype in (torch.bfloat16, torch.float16):",
            "if False:",
        ),
    ),
    *_in_file(
        "models/selectors/blend_debug.py",
        (FINITE, SELECTORS),
        (
            "NaN deviations become zeros",
            "require_finite(gap,",
            "False and require_finite(gap,",
        ),
        (
            "alpha weighs the other score",
            "gap**self.alpha * attention ** (1 - self.alpha)",
            "gap ** (1 - self.alpha) * attention**self.alpha",
        ),
    ),
    *_in_file(
        "models/selectors/attnlink.py",
        ("tests/models/test_attnlink.py", "tests/models/test_offline_selectors.py"),
        (
            "the header is not counted",
            "front = headers.before(index) if start else 0",
            "front = 0",
        ),
        (
            "the header is counted where there is none",
            "front = headers.before(index) if start else 0",
            "front = headers.before(index)",
        ),
        (
            "all chunks have the first one's header",
            "headers.before(index)",
            "headers.before(0)",
        ),
        (
            "shares are multiplied by chance",
            "scores = scores / by_chance",
            "scores = scores * by_chance",
        ),
        (
            "the last token is left to the file",
            "{*self._positions(probe.item_id, n), n - 1}",
            "set(self._positions(probe.item_id, n))",
        ),
    ),
    *_in_file(
        "models/selectors/blend.py",
        (SELECTORS,),
        (
            "keys for values",
            '(check.values, 1) if source == "v"',
            '(check.values, 1) if source == "k"',
        ),
        (
            "the last filter keeps too many",
            "probe.budget * left //",
            "probe.budget * (left + 1) //",
        ),
    ),
    *_in_file(
        "models/selectors/debug.py",
        (SELECTORS,),
        (
            "padding is not counted",
            "count_include_pad=not edge_corrected",
            "count_include_pad=edge_corrected",
        ),
        (
            "the question competes with itself",
            "received[: len(probe.candidates)]",
            "received[-len(probe.candidates) :]",
        ),
    ),
    *_in_file(
        "models/selectors/prophet.py",
        ("tests/models/test_question_pass.py", TRUTH),
        (
            "layers are not normalised",
            "return received / received.sum().clamp_min(torch.finfo(torch.float32).tiny)",
            "return received",
        ),
        (
            "the last layer alone decides",
            "        total += document_share(",
            "        total = document_share(",
        ),
    ),
    *_in_file(
        "models/selectors/shares.py",
        ("tests/models/test_shares.py",),
        (
            "remainders go to the smallest",
            "(-(lengths[i] * total % size), i)",
            "((lengths[i] * total % size), i)",
        ),
    ),
    *_in_file(
        "models/selectors/oracle_kv.py",
        (TRUTH,),
        (
            "large layers decide alone",
            "gap.square().sum((0, 2)) / norm",
            "gap.square().sum((0, 2))",
        ),
    ),
    *_in_file(
        "models/selectors/random.py",
        ("tests/models/test_offline_selectors.py",),
        (
            "the generator is not asked",
            "torch.randperm(len(probe.candidates), generator=probe.generator)",
            "torch.randperm(len(probe.candidates))",
        ),
        ("the first are drawn", "order[: probe.budget]", "order.sort().values[: probe.budget]"),
    ),
    *_in_file(
        "models/truth.py",
        (TRUTH, LATEST, FINITE),
        ("looking changes the cache", "        rows.copy_(held)\n", ""),
        ("looking shortens the cache", "        question.cache.lengths = lengths\n", ""),
        ("squared distances", "(gap / total) ** 0.5", "gap / total"),
        (
            "distances are not looked at",
            "require_finite(delta_kv[-1]",
            "False and require_finite(delta_kv[-1]",
        ),
        (
            "the question counts as a document",
            "documents, n = slice(*truth.prompt.documents)",
            "documents, n = slice(truth.prompt.documents[0], None)",
        ),
        (
            "values count twice",
            "delta_kv.append(sum(_relative(*pair) for pair in kinds) / 2)",
            "delta_kv.append(_relative(*kinds[1]))",
        ),
    ),
    *_in_file(
        "models/flops.py",
        ("tests/models/test_flops.py",),
        (
            "the bound is inverted",
            "return full / (sum(_flops(modules, rows) * layers for rows, layers in passes) + head)",
            "return (sum(_flops(modules, rows) * layers for rows, layers in passes) + head) / full",
        ),
        ("attention is free", "+ 4 * modules.n_heads * modules.head_dim * keys", ""),
        ("every row of the head", "head = 2 * modules.model", "head = 2 * n * modules.model"),
        (
            "a row does not see itself",
            "int(positions.sum()) + len(positions)",
            "int(positions.sum())",
        ),
    ),
    *_in_file(
        "models/family.py",
        ("tests/models/test_capture.py",),
        (
            "keys before their norm",
            'getattr(attention, "k_norm", attention.k_proj)',
            "attention.k_proj",
        ),
    ),
    *_in_file(
        "models/kv/capture.py",
        (
            "tests/models/test_capture.py",
            "tests/models/test_sinks.py",
            "tests/models/test_front.py",
            FINITE,
        ),
        (
            "the header's last row is kept",
            "slice(len(segment.header), None)",
            "slice(len(segment.header) - 1, -1)",
        ),
        (
            "what stands in front takes no positions",
            "torch.arange(before, before + length, device=device)",
            "torch.arange(length, device=device)",
        ),
        ("captured KVs are not looked at", '    require_finite(kv, "the captured KVs")\n', ""),
        ("surprisal of the token before", "scores[start + 1 : stop + 1] =", "scores[start:stop] ="),
    ),
    *_in_file(
        "models/kv/pieces.py",
        ("tests/models/test_capture.py", "tests/models/test_front.py"),
        ("no header is put in front", "header=tuple(sink)", "header=()"),
        ("the prompt's first segment gets one, too", "if start == 0:", "if start < 0:"),
        (
            "the first chunk stands behind what the others do",
            "min(index, len(fronts)) - 1",
            "len(fronts) - 1",
        ),
    ),
    *_in_file(
        "models/kv/sinks.py",
        ("tests/models/test_sinks.py",),
        (
            "long chunks draw more",
            "1 / query.shape[1] / (length + self.front) / self.n_layers",
            "1 / query.shape[1] / self.n_layers",
        ),
    ),
    *_in_file(
        "models/correctors/ridge.py",
        ("tests/models/test_correctors.py",),
        ("the penalty is forgotten", ".add_(penalty[:, None])", ".add_(1e-6)"),
        ("what cannot be solved passes", "if failed.any():", "if False:"),
    ),
    *_in_file(
        "models/kv/front.py",
        ("tests/models/test_front.py",),
        (
            "a segment sees but the first layer's front",
            "self.front.kv[:, layer]",
            "self.front.kv[:, 0]",
        ),
        ("a front is run for every item", "found = self._kept.pop(ids, None)", "found = None"),
    ),
    *_in_file(
        "models/kv/cache.py",
        (LATEST, GATES),
        (
            "a cache that grows forgets",
            "            self.kv[:, :, :, :valid] = old[:, :, :, :valid]\n",
            "            pass\n",
        ),
        (
            "keys are written where values belong",
            "target = self.owner.kv[kind, self.layer]",
            "target = self.owner.kv[1 - kind, self.layer]",
        ),
    ),
    *_in_file(
        "models/kv/cache.py",
        ("tests/models/test_cache.py",),
        (
            "tokens that were evicted were never seen",
            "slots.shape[1], slots.shape[1] - seen",
            "slots.shape[1], 0",
        ),
        (
            "every head keeps the first one's positions",
            "source.positions.gather(1, slots)",
            "source.positions.gather(1, slots[:1].expand_as(slots))",
        ),
        (
            "a copy forgets what was evicted",
            "layer.shift = other.length, other.kept, other.shift",
            "layer.shift = other.length, None, 0",
        ),
    ),
    *_in_file(
        "models/tuning.py",
        ("tests/models/test_tuning.py",),
        ("the question does not count", "cut = (budget + others) //", "cut = budget //"),
        ("all rows are cut too", "return budget if budget == size or", "return budget if"),
    ),
    *_in_file(
        "models/places.py",
        ("tests/models/test_cache.py",),
        (
            "rows behind evicted ones see too much",
            "rows_for(backend, moved, n_keys + shift, host + shift)",
            "rows_for(backend, positions, n_keys)",
        ),
        (
            "rows go where evicted ones lay",
            "Place(slots, n_keys + shift",
            "Place(span, n_keys + shift",
        ),
    ),
    *_in_file(
        "models/decoding/evicting.py",
        (EVICTING,),
        ("nothing leaves while decoding", "return self.policy.buffer > 0 or", "return False and"),
        (
            "sums stay where their rows were",
            "self.sums[index] = self.sums[index].gather(1, slots)",
            "self.sums[index] = self.sums[index][:, : slots.shape[1]]",
        ),
        (
            "queries of earlier passes are forgotten",
            "fresh = torch.cat([self.queries[index], fresh], 1)",
            "pass",
        ),
        ("rows leave too late", "                return count\n", "                return most\n"),
        ("kept keys are not turned", "        keys.copy_(turned)\n", ""),
    ),
    *_in_file(
        "eval/item/after.py",
        ("tests/stages/test_drop.py",),
        ("an eviction takes no time", '"evict": evict_ms / max(1, steps - 1)', '"evict": 0.0'),
    ),
    *_in_file(
        "models/linear/table.cpp",
        ("tests/models/test_table.py",),
        ("dimensions beyond the last register are left out", "at < bytes; at +=", "at < 0; at +="),
        ("the ninth row takes the place of the first", "row += ROWS)", "row += ROWS + 1)"),
        ("the last words are left out", "for (; word < end; word++)", "for (; word < 0; word++)"),
    ),
    *_in_file(
        "models/linear/table.py",
        ("tests/models/test_table.py",),
        ("a table of another type is read as floats", " or hidden.dtype != table.dtype", ""),
        ("a wrong kernel is used", "return False", "pass"),
    ),
    *_in_file(
        "models/linear/mlp.py",
        ("tests/models/test_mlp.py",),
        ("nothing is multiplied by up", ".mul_(self.up_proj(rows))", ""),
        ("the gate is not bent", "self.act_fn(self.gate_proj(rows))", "self.gate_proj(rows)"),
        ("the library's module keeps its packed parts", "setattr(mlp, name,", "(mlp, name,"),
    ),
    *_in_file(
        "models/linear/layers.py",
        ("tests/models/test_mlp.py", "tests/models/test_linear_layers.py"),
        (
            "what is timed as the library's has our MLPs",
            "for name in blocked:\n            model.set_submodule(name, model",
            "for name in ():\n            model.set_submodule(name, model",
        ),
        ("any head is taken for a tied one", "layer.weight is embedded and", ""),
    ),
    *_in_file(
        "models/kv/rotate.cpp",
        ("tests/models/test_rotary.py",),
        ("the halves keep their sign in the kernel", "(-b * T", "(b * T"),
        ("bfloat16 products are not rounded", "return T::read(T::write(x));", "return x;"),
    ),
    *_in_file(
        "models/kv/rotary.py",
        (GATES, "tests/models/test_rotary.py"),
        ("keys lie wherever", " and keys.stride()[2:] == (dim, 1)", ""),
        (
            "the halves keep their sign",
            "torch.neg(layer[..., half:], out=scratch[..., :half])",
            "scratch[..., :half].copy_(layer[..., half:])",
        ),
    ),
    *_in_file(
        "models/attention/blocked.py",
        ("tests/models/test_attention.py",),
        (
            "a row sees the next key",
            "hidden = keys[None, :] > self.positions",
            "hidden = keys[None, :] > 1 + self.positions",
        ),
        (
            "two parts are merged the wrong way round",
            "torch.sigmoid(lse_below - lse)",
            "torch.sigmoid(lse - lse_below)",
        ),
        (
            "a missing kernel is found out too late",
            "    if hasattr(torch.ops.aten, KERNEL):",
            "    if True:",
        ),
    ),
    *_in_file(
        "models/attention/native.py",
        ("tests/models/test_native.py",),
        ("rows may see keys that are not there", "last >= n_keys", "last > n_keys"),
        ("a shorter cache is read beyond its end", "< self.visible:", "< self.visible - 1:"),
        ("other types are read as floats", "query.dtype == key.dtype == value.dtype", "True"),
    ),
    *_in_file(
        "models/attention/library.py",
        ("tests/models/test_library.py",),
        (
            "a damaged library is loaded",
            "return hashlib.sha256(body).digest() == digest",
            "return True",
        ),
        ("the CPU does not count", ", *_cpu())", ")"),
    ),
    *_in_file(
        "models/attention/masked.py",
        ("tests/models/test_attention.py",),
        (
            "a row does not see itself when masked",
            "keys[None, :] <= positions[:, None]",
            "keys[None, :] < positions[:, None]",
        ),
        ("a whole prompt sees its future", "is_causal=True", "is_causal=False"),
    ),
    *_in_file(
        "models/attention/registry.py",
        ("tests/models/test_attention.py",),
        ("a segment stands where its front does", "arange(front, n_keys", "arange(0, length"),
    ),
    *_in_file(
        "models/attention/paged.py",
        ("tests/models/test_paged.py",),
        ("a row does not see itself in pages", "return keys <= torch", "return keys < torch"),
        (
            "a block starts at its last page",
            "positions[rows[:-1]] // PAGE,",
            "positions[rows[1:] - 1] // PAGE,",
        ),
    ),
    *_in_file(
        "models/load/gguf.py",
        ("tests/models/test_gguf.py",),
        ("a newer converter serves old conversions", '"models" / converter()', '"models" / "any"'),
        ("a damaged conversion is served", "if trouble(target) is None:", "if target.is_dir():"),
        (
            "weights are not looked at",
            "        require_finite(parameter.detach(),",
            "        False and require_finite(parameter.detach(),",
        ),
    ),
    *_in_file(
        "models/load/sealed.py",
        ("tests/models/test_gguf.py",),
        ("sizes are enough", "if hashed(present[name]) != digest:", "if False:"),
        ("foreign files pass", "present.keys() ^ wanted.keys()", "wanted.keys() - present.keys()"),
    ),
    *_in_file(
        "eval/gating.py",
        ("tests/stages/test_gating.py", "tests/stages/test_contexts.py"),
        (
            "an edited gate is believed",
            'entry["sha256"] == _digest(entry["key"], entry["gate"])',
            "True",
        ),
        (
            "any item of that name will do",
            '        "tokens": item.prompt.sha256(),\n        "segments": [',
            '        "tokens": 0 * [',
        ),
        ("any item's gate serves", '        "item": item.id,\n', ""),
        (
            "a gate of another context serves",
            '        "fronts": digest(fronts) if fronts else None,\n',
            "",
        ),
        (
            "a layout is as good as another",
            "[list(span) for span in item.prompt.segments]",
            "len(item.prompt)",
        ),
        ("a failed gate lets figures through", '    if not outcome["passed"]:', "    if False:"),
        ("one chunk is not named", "ONE_CHUNK if result.chunks < 2 else None", "None"),
        ("the first item is always taken", "if gate.filled(item.prompt) > 1)", "if True)"),
    ),
    *_in_file(
        "eval/evaluator.py",
        ("tests/stages/test_not_finite.py",),
        (
            "a figure that is NaN is recorded",
            "            recording.check_finite(record)\n",
            "",
        ),
    ),
    *_in_file(
        "eval/item/naming.py",
        ("tests/stages/test_not_finite.py",),
        ("items are not named", 'raise UserError(f"{name}: {error}") from error', "raise"),
    ),
    *_in_file(
        "eval/evaluator.py",
        ("tests/stages/test_pipeline.py",),
        ("every item draws the same", 'f"{seed}/{item_id}"', 'f"{seed}"'),
        (
            "cold and ready change places",
            "prefill(stored.cold), prefill(stored.ready), dropped",
            "*(prefill(stored.cold), prefill(stored.ready))[::-1], dropped",
        ),
        ("an oracle's time is reported", "timed = not variant.oracle", "timed = True"),
    ),
]
