"""The texts of a prompt's tokens, and what else is known of them: inputs, tokenizer, surprisal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from transformers import PreTrainedTokenizerBase

from data import inputs
from data.context import Context
from data.inputs import Item, Recipe
from models.errors import UserError
from models.kv import reader
from models.kv.format import SCORES, file_name
from models.load.source import resolve
from models.load.tokenizer import fingerprint, load_tokenizer
from models.sealed import digest

# In the place of a token that is a part of a character only, the first of which shows it.
REST = "·"
GAP = "\ufffd"


class Texts:
    """Finds inputs and tokenizers of finished runs, each once.

    Parameters
    ----------
    models : what to try for a run's model, besides what its own command named.
    folders : where inputs and KVs may lie, in pairs.
    """

    def __init__(self, models: Sequence[str], folders: Sequence[tuple[Path, Path]]) -> None:
        self.models = models
        self.folders = folders
        self._tokenizers: dict[str, PreTrainedTokenizerBase | None] = {}

    def items(self, result: dict[str, Any]) -> dict[str, Item]:
        """The run's items by id.

        Raises
        ------
        UserError : its inputs are not here any more, or are others.
        """
        try:
            recipe = Recipe.model_validate(result["inputs"]["recipe"])
        except (ValidationError, KeyError):
            raise UserError("the run does not say what its inputs were made from") from None
        for folder, _ in self.folders:
            try:
                found = inputs.read(inputs.item_path(folder, recipe), recipe)
            except FileNotFoundError:
                continue
            if found.fingerprint() == result["config"]["inputs"]:
                return {item.id: item for item in found.items}
        raise UserError("the inputs of these runs are not here any more")

    def tokenizer(self, result: dict[str, Any]) -> PreTrainedTokenizerBase | None:
        """The tokenizer that the run had, by its fingerprint; None where it cannot be had."""
        wanted = result["config"]["tokenizer"]
        if wanted not in self._tokenizers:
            self._tokenizers[wanted] = self._find(result, wanted)
        return self._tokenizers[wanted]

    def _find(self, result: dict[str, Any], wanted: str) -> PreTrainedTokenizerBase | None:
        name = result["config"]["model"]
        for model in dict.fromkeys([*_named(result), name, *self.models]):
            try:
                # As if it were local: a report asks no hub, what is cached must do.
                found = load_tokenizer(replace(resolve(model), is_local=True))
            except UserError:
                continue
            if fingerprint(found) == wanted:
                return found
        return None

    def scores(self, results: Sequence[dict[str, Any]], item: Item) -> dict[str, list[float]]:
        """Surprisal and sinks of an item's tokens, as far as stage 2 kept them.

        Both depend on where chunks end and on what stood in front of them: what is shown was found
        behind what a run's own chunks were captured behind, and says so where the runs differ.

        Parameters
        ----------
        results : runs of one group.
        """
        config = results[0]["config"]
        behind = [r["config"].get("context") for r in results]
        contexts = [name for name in dict.fromkeys(behind) if name]
        found: dict[str, list[float]] = {}
        for context in contexts:
            try:
                expected = _expected(config, context, item)
            except UserError:
                continue  # of a primer nothing but its length is known
            for _, folder in self.folders:
                for place in sorted((folder / config["model"]).glob(f"{config['dataset']}*")):
                    for kind in SCORES:
                        name = kind if len(contexts) == 1 else f"{kind} behind {context}"
                        path = place / f"item_{item.id}" / file_name(kind)
                        if name not in found and path.is_file():
                            values = _scores(path, kind, expected)
                            found |= {} if values is None else {name: values}
        return found


def _named(result: dict[str, Any]) -> list[str]:
    """The models that the run's own command named."""
    words, found = result["environment"].get("command", []), []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.lower().startswith(("model=", "--model=")):
            found.append(word.partition("=")[2])
        elif word == "--model":
            found.append(following)
    return list(filter(None, found))


def _expected(config: dict[str, Any], context: str, item: Item) -> dict[str, Any]:
    """What a file of scores must say of itself, where they were found behind a context.

    Raises
    ------
    UserError : what stood in front cannot be known from the item alone.
    """
    chunking = config["chunking"]
    fronts = Context.parse(context).fronts(item.prompt, chunking["sink"], [])
    return {
        "tokens": item.prompt.sha256(),
        "weights": config["weights"],
        "dtype": config["dtype"],
        "chunking": {**chunking, **({"front": digest(fronts)} if fronts else {})},
    }


def _scores(path: Path, kind: str, expected: dict[str, Any]) -> list[float] | None:
    """What a file of scores holds, where it is whole and of what is expected."""
    try:
        meta = torch.load(path, mmap=True, weights_only=True)["meta"]
        if expected != {key: meta[key] for key in expected}:
            return None
        tensor = reader.read(path, dict(meta), "", kind, verify=True)
    except (UserError, OSError, RuntimeError, KeyError, TypeError, ValueError):
        return None  # damaged: stage 2 tells of it, here it is not shown
    return [round(value, 3) for value in tensor.tolist()]


def texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text.

    A character that several tokens spell stands at the first of them, :data:`REST` at the others.
    """
    one = _reader(tokenizer)
    found = [one(token) for token in ids]
    place = 0
    while place < len(found):
        if GAP not in found[place]:
            place += 1
            continue
        end = place + 1
        while end < len(ids) and end - place < 4 and GAP in _decode(tokenizer, ids[place:end]):
            end += 1
        whole = _decode(tokenizer, ids[place:end])
        if GAP not in whole:
            found[place:end] = [whole, *[REST] * (end - place - 1)]
            place = end
        else:
            place += 1
    return found


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    text = tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return str(text)


def _reader(tokenizer: PreTrainedTokenizerBase) -> Any:
    """Decodes a token behind another: some tokenizers drop the blank that a text begins with."""
    anchor = tokenizer.encode("a", add_special_tokens=False)[-1:]
    before = _decode(tokenizer, anchor)

    @cache
    def one(token: int) -> str:
        both = _decode(tokenizer, [*anchor, token])
        return both[len(before) :] if both.startswith(before) else _decode(tokenizer, [token])

    return one
