"""A stage's command line, derived from its configuration dataclass, and how its errors look."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

import torch
from transformers import HfArgumentParser

from models.errors import UserError

C = TypeVar("C")


def option(default: Any, help: str, **kwargs: Any) -> Any:
    """A dataclass field with a help text."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help}, **kwargs)
    return field(default=default, metadata={"help": help}, **kwargs)


@dataclass
class StageConfig:
    """What every stage needs to know: which model, which dataset, where the folders are."""

    model: str = option(
        "smollm2-135m", "alias of config/models.yaml, hub id, local folder or .gguf file"
    )
    dataset: str = option("2wikimqa", "dataset of config/datasets/")
    limit: int | None = option(None, "only the first so many items")
    inputs: str = option("inputs", "folder of stage 1's results")
    kvs: str = option("kvs", "folder of stage 2's results")
    outputs: str = option("outputs", "folder of stage 3's results")

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UserError(f"LIMIT={self.limit} asks for no items; give 1 or more")
        for name in ("inputs", "kvs", "outputs"):
            if not getattr(self, name):
                raise UserError(f"{name.upper()}= names no folder; leave it out for {name}/")


class _Parser(HfArgumentParser):
    """Errors as one line instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; python -m {self.prog} --help lists the options")


def run(
    config_class: type[C], main: Callable[[C], None], stage: str, module: str | None = None
) -> None:
    """Parse ``sys.argv`` into ``config_class``, run ``main``, and leave with the right exit code.

    0 on success; 2 with one line on stderr for a :class:`UserError`; 130 when interrupted. Anything
    else is a bug of ours and keeps its traceback.
    """
    try:
        dataclass_type: Any = config_class
        parser = _Parser(dataclass_type, prog=module or stage, description=config_class.__doc__)
        config, unknown = parser.parse_args_into_dataclasses(return_remaining_strings=True)
        if unknown:
            parser.error(f"unknown option {unknown[0]}")
        main(config)
    except UserError as error:
        print(f"{stage}: {error}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, torch.OutOfMemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else "no room left"
        print(
            f"{stage}: out of memory ({reason}); set DTYPE=bfloat16, a smaller MAX_LENGTH or MODEL",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\n{stage}: interrupted; what is finished is kept", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
