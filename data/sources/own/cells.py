"""What a cell means: a question, documents or answers, in the shapes that data sets have."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Sequence
from typing import Any

from data.sources.own.columns import plain
from models.sealed import parse

_TITLES = ("title", "name", "heading")
_BODIES = (
    *("text", "paragraph_text", "passage_text", "sentences", "content", "contents"),
    *("page_content", "body", "passage", "paragraph", "document", "context", "snippet"),
)


def missing(value: Any) -> bool:
    """Whether a cell is empty: null, NaN, or white space."""
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    )


def text(value: Any) -> str:
    """One text; a number as it is written, a truth as yes or no. Raises ValueError otherwise."""
    if isinstance(value, dict) and len(found := _keyed(value, ("text",))) == 1:
        return text(found[0])
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)  # a column of whole numbers with gaps is kept as 5.0
    if isinstance(value, (int, float)):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"is a {type(value).__name__} where a text belongs")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("has half a character (a lone surrogate); save it as UTF-8") from None
    return value


def documents(value: Any) -> str | list[str]:
    """The one context of a row, or its list of documents, empty ones left out.

    A list holds texts, mappings with a text and perhaps a title, or pairs of a title and its
    sentences (HotpotQA's own files); a mapping holds lists of titles and texts (HotpotQA and MS
    MARCO on the hub), or one document. A title stands above its text. Raises ValueError otherwise.
    """
    if missing(value):
        return []
    if isinstance(value, str):
        return text(value)
    if isinstance(value, dict):
        bodies = _keyed(value, _BODIES)[:1]
        if bodies and isinstance(bodies[0], list):
            titles = _keyed(value, _TITLES)[:1]
            heads = titles[0] if titles and isinstance(titles[0], list) else [None] * len(bodies[0])
            if len(heads) != len(bodies[0]):
                raise ValueError(f"has {len(heads)} titles for {len(bodies[0])} texts")
            found = [_titled(head, body) for head, body in zip(heads, bodies[0], strict=True)]
        else:
            found = [_document(value)]
    elif isinstance(value, (list, tuple)):
        found = [_document(item) for item in value if not missing(item)]
    else:
        raise ValueError(f"is a {type(value).__name__} where documents belong")
    return [document for document in found if document]


def answers(value: Any) -> list[str]:
    """References, each once; none for an empty cell.

    A text, a list of them, SQuAD's mapping with a list in `text`, or TriviaQA's with `value` and
    `aliases`. Raises ValueError otherwise.
    """
    if missing(value):
        return []
    if isinstance(value, (list, tuple)):
        found = [answer for item in value for answer in answers(item)]
    elif isinstance(value, dict):
        inner = _keyed(value, ("text", "value", "aliases"))
        if value and not any(plain(key) in ("text", "value") for key in value):
            raise ValueError(f"is a mapping of {', '.join(value)} where answers belong")
        found = [answer for item in inner for answer in answers(item)]
    else:
        found = [text(value)]
    return list(dict.fromkeys(found))


def unprinted(cell: str) -> Any:
    """The list or mapping that a CSV's cell was printed from, or the cell as it is.

    JSON and Python's own print are read back. Raises ValueError for what begins like a list of
    texts and is neither, such as numpy's print, whose elements cannot be told apart.
    """
    shown = cell.strip()
    if shown in ("nan", "NaN"):
        return None
    if shown[:1] not in ("[", "{"):
        return cell
    try:
        return parse(shown)
    except ValueError:
        pass
    try:
        value = ast.literal_eval(shown)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    # Python joins texts that stand side by side: ['a' 'b'] would be one document.
    if value is not None and "".join(repr(value).split()) == "".join(shown.split()):
        return value
    if re.match(r"[\[{]\s*['\"]", shown) and shown[-1] in "]}":
        raise ValueError("looks like a list, and is no JSON; write it as JSON")
    return cell


def _document(item: Any) -> str:
    if isinstance(item, dict):
        bodies = _keyed(item, _BODIES)
        if not bodies:
            raise ValueError(f"has a document without a text; its fields: {', '.join(item)}")
        titles = _keyed(item, _TITLES)
        return _titled(titles[0] if titles else None, bodies[0])
    if isinstance(item, (list, tuple)):
        if len(item) == 2 and isinstance(item[0], str) and isinstance(item[1], (list, tuple)):
            return _titled(*item)
        raise ValueError("has a document that is a list, and no pair of a title and its sentences")
    return text(item).strip()


def _titled(title: Any, body: Any) -> str:
    """The title on a line of its own, if there is one, and the text, perhaps in sentences."""
    sentences = body if isinstance(body, (list, tuple)) else [body]
    words = " ".join(text(part).strip() for part in sentences if not missing(part))
    return words if missing(title) or not words else f"{text(title).strip()}\n{words}"


def _keyed(value: dict[str, Any], names: Sequence[str]) -> list[Any]:
    """What stands under these names, whatever their case, in the order of the names."""
    by_name = {plain(key): inner for key, inner in value.items()}
    return [by_name[name] for name in names if not missing(by_name.get(name))]
