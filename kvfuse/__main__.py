"""``kvfuse COMMAND VARIABLE=value ...``: the front door, with or without Make."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from kvfuse.demo import DEMO, PURPOSE
from kvfuse.variables import from_make, remember, remembered
from models.errors import UserError
from stage.config import check_names
from stage.options import exit_code, help_of, note_environment, options_of, parse, read_arguments


@dataclass(frozen=True)
class Command:
    """One command: what it is for, its ``main`` and its configuration, imported when it is called.

    ``more`` finds further options; ``announces`` says that it takes a model and a dataset, which
    are remembered from call to call; ``places`` are variables that need no name. A command with
    ``actions`` has nothing else: the word that follows it (or ``ACTION=``) says which.
    """

    purpose: str
    main: str = ""
    config: str = ""
    more: str | None = None
    announces: bool = True
    places: tuple[str, ...] = ()
    actions: Mapping[str, Command] = field(default_factory=dict)


STORE = {
    "ls": Command(
        "bytes by model and dataset, and what sharing saves",
        "store.listing:ls",
        "store.config:StoreConfig",
        announces=False,
    ),
    "stat": Command(
        "each model's store in figures",
        "store.listing:stat",
        "store.config:StoreConfig",
        announces=False,
    ),
    "verify": Command(
        "read every chunk and manifest, and name those that are not as written",
        "store.verify:verify",
        "store.config:StoreConfig",
        announces=False,
    ),
    "gc": Command(
        "remove what nobody refers to and, above BYTES=, what was not used longest",
        "store.gc:gc",
        "store.config:GcConfig",
        announces=False,
    ),
    "rm": Command(
        "remove the references of DATASET's items",
        "store.rm:rm",
        "store.config:RmConfig",
        announces=False,
    ),
    "export": Command(
        "a dataset's KVs from one layout into the other (TO=item or TO=chunks); nothing is run",
        "store.export:main",
        "store.export:ExportConfig",
    ),
    "plan": Command(
        "what keeping DATASET's chunks takes and saves, and after how many questions it pays",
        "bench.store.plan:main",
        "bench.store.plan:PlanConfig",
    ),
}

COMMANDS = {
    "chunk": Command(
        "stage 1: split DATASET's documents into token chunks for MODEL",
        "chunk.__main__:main",
        "stage.config:InputsConfig",
    ),
    "precompute": Command(
        "stage 2: encode every chunk once and keep its KVs (builds stage 1 if missing)",
        "precompute.__main__:main",
        "stage.config:PrecomputeConfig",
    ),
    "eval": Command(
        "stage 3: answer with each method of REUSE and measure (builds stages 1 and 2 if missing)",
        "eval.__main__:main",
        "eval.config:EvalConfig",
        more="eval.variants:method_options",
    ),
    "sweep": Command(
        "stage 3 over a grid of REUSE and RATE: one table, sweep.json and a picture",
        "eval.sweep:main",
        "eval.config:SweepConfig",
        more="eval.variants:method_options",
    ),
    "report": Command(
        "tables over the finished runs of MODEL on DATASET, and a page over all runs",
        "eval.report.__main__:main",
        "eval.report.config:ReportConfig",
    ),
    "compare": Command(
        "two runs item by item: folders A and B, or LMCache's rag-qa-quality JSON",
        "eval.compare.__main__:main",
        "eval.compare.config:CompareConfig",
        announces=False,
        places=("A", "B"),
    ),
    "study": Command(
        "the protocol's runs (docs/protocol.md): our method against the published ones",
        "eval.study.__main__:main",
        "eval.study.config:StudyConfig",
        announces=False,
    ),
    "gate": Command(
        "prove on MODEL and a real item that r = 1 is full prefill, and print the distances",
        "eval.gate:main",
        "stage.config:ModelConfig",
    ),
    "ppl": Command(
        "perplexity, memory and times over eviction policies (DROP) and kept shares (KEEPS)",
        "eval.ppl.__main__:main",
        "eval.ppl.config:PplConfig",
        announces=False,
    ),
    "store": Command(
        f"the store of chunks: {', '.join(STORE)}",
        announces=False,
        actions=STORE,
    ),
    "doctor": Command(
        "what this machine has and lacks, each lack with its remedy",
        "kvfuse.doctor:main",
        "kvfuse.doctor:DoctorConfig",
        announces=False,
    ),
    "bench": Command(
        "speed by prompt length beside the library's own: table, bench.json, picture",
        "bench.__main__:main",
        "bench.config:BenchConfig",
        announces=False,
    ),
    "gpu-check": Command(
        "gates, attention kernels and speed on this GPU, at Llama-3-8B shape, random weights",
        "bench.gpu.check:main",
        "bench.gpu.config:GpuCheckConfig",
        announces=False,
    ),
    "gpu-build": Command(
        "compile FlashInfer's kernels here for a GPU of ARCH= elsewhere",
        "bench.gpu.build:main",
        "bench.gpu.build:GpuBuildConfig",
        announces=False,
    ),
}


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code."""
    words = list(arguments)
    by_make = words[:1] == ["--make"]
    if by_make:
        words = [*words[1:2], *from_make(os.environ.get("MAKEFLAGS", ""))]
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if words else 2
    name, rest = words[0], words[1:]
    if name == "demo":
        return exit_code(lambda: demo(rest), name)
    return exit_code(lambda: run(name, rest, by_make), name if name in COMMANDS else "kvfuse")


def demo(arguments: Sequence[str]) -> None:
    """The demo's evaluations and their page; no model or dataset is remembered, nor left so."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(f"demo: {PURPOSE}\n\nIt takes no variables.")
        return
    if arguments:
        raise UserError(f"the demo takes no variables: {arguments[0]}; use kvfuse eval")
    for each in DEMO:
        run("eval", each, remembers=False)
    config = _found("eval.report.config:ReportConfig")(model="smollm2-135m", dataset="needle")
    _found("eval.report.__main__:write_page")(config)


def run(name: str, arguments: Sequence[str], by_make: bool = False, remembers: bool = True) -> None:
    """Check the names first, since torch takes seconds to import; then parse, and do it."""
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(COMMANDS)}"
        raise UserError(f"unknown command '{name}': {hint}")
    command = COMMANDS[name]
    helps = {"-h", "--help"} & set(arguments)
    if command.actions and not (helps and len(arguments) == 1):
        name, command, arguments = action(name, arguments)
    if helps:
        print(manual(name, command))
        return
    defaults = remembered() if command.announces and remembers else {}
    if command.announces:
        check_names(**{**defaults, **_named(arguments)})
    config_class = _found(command.config)
    place = command.more
    more = (lambda config: _found(place)(config)) if place else None  # it brings torch in
    words = _placed(arguments, command.places)
    config = parse(config_class, words, more, **defaults)
    named = read_arguments(words, options_of(config_class))
    unnamed = [option for option in options_of(config_class) if option not in named]
    how = f"name it after the {'target' if by_make else 'command'}"
    note_environment(unnamed, how)
    if not command.announces:
        _found(command.main)(config)
        return
    last = [option.upper() for option in defaults if option not in named]
    hint = f" ({' and '.join(last)} as last time)" if last else ""
    print(f"{name}: MODEL={config.model} DATASET={config.dataset}{hint}", flush=True)
    _found(command.main)(config)
    if remembers:
        remember(config.model, config.dataset)


def action(name: str, arguments: Sequence[str]) -> tuple[str, Command, list[str]]:
    """The action that a command's arguments name, and the arguments without it.

    Raises
    ------
    UserError : none is named, or one that there is not.
    """
    actions = COMMANDS[name].actions
    words = _placed(arguments, ("ACTION",))
    chosen = [word for word in words if word.startswith("ACTION=")]
    said = chosen[0].removeprefix("ACTION=") if chosen else ""
    if said not in actions:
        near = difflib.get_close_matches(said, actions, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(actions)}"
        told = f"'{said}' is no action" if said else "name what to do"
        raise UserError(f"{told}: {hint}")
    return f"{name} {said}", actions[said], [word for word in words if word != chosen[0]]


def _placed(arguments: Sequence[str], places: Sequence[str]) -> list[str]:
    """The arguments, the first ones named by their places where they have no name themselves."""
    words = list(arguments)
    for i, name in enumerate(places[: len(words)]):
        named, sign, _ = words[i].partition("=")
        if words[i].startswith("-") or (sign and named.isupper()):
            break
        words[i] = f"{name}={words[i]}"
    return words


def _named(arguments: Sequence[str]) -> dict[str, str]:
    """MODEL and DATASET where they are named, however the rest is to be read."""
    found = {}
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        for name in ("model", "dataset"):
            if word == f"--{name}":
                found[name] = following
            elif word.startswith((f"--{name}=", f"{name.upper()}=")):
                found[name] = word.partition("=")[2]
    return {name: text for name, text in found.items() if text}


def _found(place: str) -> Any:
    module, _, name = place.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def overview() -> str:
    """The commands, for people."""
    purposes = {name: command.purpose for name, command in COMMANDS.items()} | {"demo": PURPOSE}
    lines = [f"  {name:<11} {purpose}" for name, purpose in purposes.items()]
    last = " ".join(f"{name.upper()}={text}" for name, text in remembered().items())
    return "\n".join(
        [
            "kvfuse COMMAND VARIABLE=value ...   (or: make COMMAND VARIABLE=value ...)",
            "",
            *lines,
            "",
            f"Last named: {last or 'nothing yet'}.",
            "kvfuse COMMAND --help lists a command's variables.",
        ]
    )


def manual(name: str, command: Command) -> str:
    """One command's variables, or its actions, for people."""
    if command.actions:
        lines = [f"  {action:<8} {found.purpose}" for action, found in command.actions.items()]
        ends = [f"kvfuse {name} ACTION --help lists an action's variables."]
        return "\n".join([f"{name}: {command.purpose}", "", *lines, "", *ends])
    config_class = _found(command.config)
    parts = [f"{name}: {command.purpose}", "", "VARIABLE=value, or --variable value:", ""]
    parts.append(help_of(options_of(config_class).values()))
    if command.more:
        parts += ["", "Options of the methods that have them:", ""]
        parts.append(help_of(_found(command.more)(config_class())))
    return "\n".join(parts)


def script() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    script()
