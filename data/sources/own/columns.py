"""Which column of a table is what: its usual names, or the one that an option names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.errors import UserError

# As SQuAD, HotpotQA, MuSiQue, LongBench, RAGBench, RAGAS, MS MARCO and the like call them.
USUAL = {
    "question": ("question", "query", "input", "user_input"),
    "documents": (
        *("documents", "document", "docs", "contexts", "context", "passages", "passage"),
        *("paragraphs", "ctxs", "retrieved_contexts", "article", "text"),
    ),
    "answers": (
        *("answers", "answer", "ground_truths", "ground_truth", "references", "reference"),
        *("response", "outputs", "output", "target"),
    ),
}
# In a folder of texts a row names files instead of holding documents.
FILES = (*USUAL["documents"], "files", "file", "filenames", "filename", "file_name")
# MuSiQue keeps an answer's other spellings in a column of their own.
ALIASES = "answer_aliases"


@dataclass(frozen=True)
class Columns:
    """The columns of a table's roles; None where it has none. `ids` are candidates, best first."""

    question: str
    documents: str | None
    answers: str | None
    aliases: str | None
    ids: list[str]

    @property
    def read(self) -> list[str]:
        """Those that make a row."""
        named = (self.question, self.documents, self.answers, self.aliases)
        return [name for name in named if name is not None]


def choose(
    columns: Sequence[str], named: dict[str, str | None], where: str, texts: bool = False
) -> Columns:
    """The column of each role.

    Parameters
    ----------
    columns : those of the table.
    named : by role (question, documents, answers) the column that its option names, or None.
    where : the file, for messages.
    texts : whether the documents are files of a folder, which a row need not name.

    Raises
    ------
    UserError : a column that is named and absent, several that may be meant, or none; the line
        lists the columns that there are.
    """
    listed = ", ".join(columns) or "none"

    def of(role: str, usual: Sequence[str]) -> str | None:
        option = f"{role.upper()}="
        if name := named.get(role):
            alike = [column for column in columns if plain(column) == plain(name)]
            same = [name] if name in columns else alike
            if len(same) != 1:
                lack = "no column" if not same else "more than one column"
                raise UserError(f"{option}{name} is {lack} of {where}; its columns: {listed}")
            return same[0]
        found = [column for column in columns if plain(column) in usual]
        if len(found) > 1:
            raise UserError(
                f"{where}: the {role} may be in {' or '.join(found)}; name the column with {option}"
            )
        return found[0] if found else None

    question = of("question", USUAL["question"])
    documents = of("documents", FILES if texts else USUAL["documents"])
    for role, found in (("question", question), ("documents", documents)):
        if found is None and not (texts and role == "documents"):
            raise UserError(
                f"{where} has no {role} column that we know; its columns: {listed}; "
                f"name one with {role.upper()}="
            )
    answers = of("answers", USUAL["answers"])
    aliases = [c for c in columns if plain(c) == ALIASES and c != answers]
    ids = [c for usual in ("id", "_id") for c in columns if c.lower() == usual]
    return Columns(
        str(question), documents, answers, aliases[0] if aliases and answers else None, ids
    )


def plain(name: str) -> str:
    """A column's name in lower case, with ``_`` for blanks and hyphens."""
    return "_".join(name.lower().replace("-", " ").split())
