"""RULER (Hsieh et al., 2024, arXiv:2404.06654): rows of its 13 tasks, generated or read."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, Protocol, cast

from data.dataset import Dataset
from data.hashing import combine, file_digest
from data.request import Request
from data.row import Row, Rows
from data.sources import haystack
from data.sources.ruler import official
from data.sources.ruler.fit import TOLERANCE, Fitted, TooLong, TooShort, fit
from data.sources.ruler.niah import Niah
from data.sources.ruler.qa import Questions
from data.sources.ruler.sample import Cell, Draft, Sample
from data.sources.ruler.variables import Variables
from data.sources.ruler.words import CommonWords, FrequentWords
from models.errors import UserError

PREFIX = "ruler_"
# RULER makes 500 rows of a length. We make the first 100 of them unless LIMIT asks for more.
OFFICIAL_ROWS, DEFAULT_ROWS = 500, 100
_ATTEMPTS = 5


class Task(Protocol):
    """A generator with its parameters, which are its dataclass fields."""

    def draft(self, cell: Cell) -> Draft:
        """The row of a cell, but for its size."""

    def reads(self, haystack: str | None) -> Any:
        """What texts the rows are made of, or hashes of them, as values that JSON can hold."""


GENERATORS: dict[str, Callable[..., Task]] = {
    "niah": Niah,
    "vt": Variables,
    "cwe": CommonWords,
    "fwe": FrequentWords,
    "qa": Questions,
}


def read(dataset: Dataset, request: Request) -> Rows:
    """Rows of a RULER task.

    They come from the files of RULER's own generator where `request.ruler_dir` names a folder,
    else from ours. Several lengths take turns, so that the first rows see them all. A length
    counts the prompt and the room for its answer, as RULER's max_seq_length does. Raises
    UserError for parameters, lengths, folders or files that do not serve.
    """
    if request.ruler_dir:
        rows, where = official.from_folder(dataset, request.ruler_dir, request.lengths)
        return Rows(rows[: request.limit], "folder", where, False, len(rows))
    task = _task(dataset)
    lengths = _lengths(dataset, request)
    available = OFFICIAL_ROWS * len(lengths)
    wanted = DEFAULT_ROWS * len(lengths) if request.limit is None else request.limit
    fitted: dict[int, Fitted] = {}
    rows = []
    for number in range(min(wanted, available)):
        index, turn = divmod(number, len(lengths))
        cell = Cell(dataset, lengths[turn], index, request.seed, request.haystack)
        found = _fit(cell, task, request, fitted.get(cell.length))
        # Always the length's first row, so that a row does not depend on how many came before it.
        fitted.setdefault(cell.length, found)
        rows.append(_row(cell, found.sample))
    sizes = ", ".join(map(str, lengths))
    where = f"generated: {dataset.name}, seed {request.seed}, lengths {sizes}"
    if getattr(task, "type_haystack", None) == "essay":
        where += f", haystack {haystack.load(request.haystack)[1]}"
    return Rows(rows, "generator", where, False, available)


def digest(dataset: Dataset, request: Request) -> str:
    """A hash of the files read, or of the parameters, lengths, seed, texts and prompt."""
    template = [dataset.instruction, dataset.question, dataset.answer_prefix]
    if request.ruler_dir:
        files = official.find(dataset, request.ruler_dir, request.lengths)
        held = [[tokens, file_digest(path)] for tokens, path in files.items()]
        return combine("official", held, template)
    task, lengths = _task(dataset), _lengths(dataset, request)
    made = [dataset.name, dataset.parameters, lengths, request.seed, dataset.max_new_tokens]
    return combine(made, task.reads(request.haystack), template)


def _task(dataset: Dataset) -> Task:
    settings = dict(dataset.parameters)
    kind = settings.pop("generator", None)
    if kind not in GENERATORS:
        raise UserError(
            f"{dataset.name}: parameters: generator must be one of {', '.join(GENERATORS)}, "
            f"not {kind!r}"
        )
    known = {item.name: str(item.type) for item in fields(cast(Any, GENERATORS[kind]))}
    for name, value in settings.items():
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(known)}"
            raise UserError(f"{dataset.name}: parameters: unknown parameter {name!r}; {hint}")
        if type(value).__name__ not in known[name].replace("float", "float int").split():
            raise UserError(
                f"{dataset.name}: parameters: {name} must be {known[name]}, not {value!r}"
            )
    try:
        return GENERATORS[kind](**settings)
    except UserError as error:
        raise UserError(f"{dataset.name}: parameters: {error}") from None


def _lengths(dataset: Dataset, request: Request) -> tuple[int, ...]:
    """The lengths asked for, each once, or all powers of two from 4096 that the model holds."""
    reach = request.room + dataset.max_new_tokens
    if not request.lengths:
        powers = [1 << bits for bits in range(12, 31) if 1 << bits <= reach]
        return tuple(powers or [max(100, reach // 100 * 100)])
    for length in request.lengths:
        if length > reach:
            raise UserError(
                f"LENGTHS={length} does not fit: {reach} tokens at most, of which "
                f"{dataset.name} keeps {dataset.max_new_tokens} for the answer"
            )
    return tuple(dict.fromkeys(request.lengths))


def _fit(cell: Cell, task: Task, request: Request, before: Fitted | None) -> Fitted:
    """The cell's row, drawn again where a unit of haystack is too coarse for the tolerance."""
    kept = cell.dataset.max_new_tokens

    def tokens(sample: Sample) -> int:
        return request.measure(_row(cell, sample)) + kept

    best: Fitted | None = None
    try:
        for attempt in range(_ATTEMPTS):
            found = fit(task.draft(replace(cell, attempt=attempt)), tokens, cell.length, before)
            best = found if best is None or found.tokens > best.tokens else best
            if best.tokens >= cell.length * (1 - TOLERANCE):
                break
    except TooShort as error:
        if best is None:
            raise UserError(
                f"LENGTHS={cell.length} is too short for {cell.dataset.name}: it needs {error} "
                f"tokens at least, {kept} of them for the answer"
            ) from None
    except TooLong as error:
        raise UserError(
            f"LENGTHS={cell.length} is too long for {cell.dataset.name}: all its documents make "
            f"{error} tokens"
        ) from None
    assert best is not None
    return best


def _row(cell: Cell, sample: Sample) -> Row:
    depth = {} if sample.depth is None else {"depth": sample.depth}
    task = cell.dataset.name.removeprefix(PREFIX)
    return Row(
        f"{cell.length}-{cell.index:04d}",
        sample.input,
        sample.context,
        answers=sample.answers,
        language=cell.dataset.language,
        details={**depth, "context_length": cell.length, "task": task},
    )
