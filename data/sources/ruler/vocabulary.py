"""English words, from the lists of wonderwords, the package that RULER takes them from."""

from functools import lru_cache

from data.packs import pack_file
from models.errors import UserError

PACKAGE = "wonderwords"


@lru_cache(maxsize=3)
def words(kind: str) -> tuple[str, ...]:
    """The words of a `kind` (adjective, noun or verb), sorted and each once."""
    path = pack_file(f"{kind}list.txt", PACKAGE)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); delete .venv and run: make setup"
        ) from None
    return tuple(sorted({line.strip() for line in lines} - {""}))
