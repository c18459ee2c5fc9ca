"""The eviction policies of an evaluation: ``DROP=``, with options from the line or from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_type_hints

import yaml

from eval.config import EvalConfig
from models import eviction
from models.errors import UserError
from models.extension import option_fields, value_of
from models.registry import Built

Drops = Built[eviction.BasePolicy]


def make_policies(config: EvalConfig) -> Drops:
    """Every policy of ``DROP`` by its spec, each once, with the hash of its source.

    Options in a spec go before those on the line, and these before those of ``DROP_CONFIG``.

    Raises
    ------
    UserError : an unknown policy, a bad option, or a file with an option that none of them has.
    """
    preset = read(config.drop_config) if config.drop_config else {}
    found: Drops = {}
    known: set[str] = set()
    for name in config.drop:
        options: dict[str, Any] = {}
        if name.partition(":")[0] != eviction.NONE:
            cls = eviction.policy_class(name)
            hints, own = get_type_hints(cls), {field.name for field in option_fields(cls)}
            known |= own
            options = {
                key: value_of(str(value), hints[key], f"{config.drop_config}: {key}")
                for key, value in preset.items()
                if key in own
            }
        eviction.add(found, name, **{**options, **config.method_options})
    for key in preset:
        if key not in known:
            raise UserError(
                f"DROP_CONFIG={config.drop_config}: {key} is an option of none of "
                f"DROP={' '.join(config.drop)!r}"
            )
    return found


def read(path: str) -> dict[str, Any]:
    """A file of options, ``name: value`` a line.

    Raises
    ------
    UserError : there is none, or it holds something else.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"DROP_CONFIG={path} cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, ValueError):
        raise UserError(f"DROP_CONFIG={path} is no YAML; write name: value, a line each") from None
    plain = isinstance(content, dict) and all(
        isinstance(key, str) and isinstance(value, int | float | str)
        for key, value in content.items()
    )
    if not plain:
        raise UserError(f"DROP_CONFIG={path} must hold options: name: value, a line each")
    return dict(content)
