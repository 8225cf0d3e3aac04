"""The command line: one flag a setting, one flag for each option of a method; and the help on both.

All methods' options are understood whatever the method, so that an option of another one can be told from a mistyped
flag; which of them the chosen method takes is `experiments.settings.config.resolve`'s to say.
"""

import argparse
import dataclasses
import difflib
import pathlib
import shutil
import sys
import textwrap
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.settings import catalogue, config, listing
from robustjax import methods, user_code

_HELP = ("--help", "-h")
_LISTS: dict[str, Callable[[], str]] = {
    "--list-methods": listing.list_methods,
    "--list-models": listing.list_models,
    "--list-datasets": listing.list_datasets,
}


def program() -> str:
    """What the user called: the installed command, or the module."""
    name = pathlib.Path(sys.argv[0]).stem
    return name if name == "robustjax" else "python -m experiments.run"


def parse(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """What the user gave, as a flat dict; exits with a message for what is not understood.

    Raises:
      ValueError: for a method in a file that has no such factory.
      FileNotFoundError: if there is no such file.
    """
    arguments = sys.argv[1:] if argv is None else argv
    parser = make_parser(_method_in(arguments))
    given, unknown = parser.parse_known_args(arguments)
    for item in unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings] + [*_HELP, *_LISTS]
        close = difflib.get_close_matches(item.split("=")[0], flags, 3, 0.5)
        parser.error(f"{item} is not known" + (f": did you mean {', '.join(close)}?" if close else "; see --help."))
    return vars(given)


def make_parser(method: str | None = None) -> argparse.ArgumentParser:
    """The parser of a flag for each field of `Config` and each option of each method.

    A name that means options of several types is read as that of `method`, if it has it.
    """
    parser = argparse.ArgumentParser(
        prog=program(), usage="%(prog)s [--method=NAME] [--dataset=NAME] [--SETTING=VALUE …]; see --help",
        allow_abbrev=False, add_help=False,
    )  # fmt: skip
    for field in dataclasses.fields(config.Config):
        if field.name in config.FIELDS:
            _add(parser, field.name, field_kind(field), field.metadata.get("choices"))
    options: dict[str, catalogue.Option] = {}
    for known in methods.entries():
        options = catalogue.options(known) | options
    if method is not None:
        options |= catalogue.options(catalogue.entry(method))
    for name, option in options.items():
        if name not in config.FIELDS:
            _add(parser, name, option.kind)
    return parser


def names() -> frozenset[str]:
    """Of all settings, and of all options of registered methods."""
    return frozenset(config.FIELDS).union(*(catalogue.options(known) for known in methods.entries()))


def _add(parser: argparse.ArgumentParser, name: str, kind: type, choices: Sequence[str] | None = None) -> None:
    flags = dict.fromkeys(("--" + name.replace("_", "-"), "--" + name))
    if kind is bool:
        parser.add_argument(*flags, dest=name, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS)
    else:
        parser.add_argument(*flags, dest=name, type=kind, choices=choices, default=argparse.SUPPRESS)


def field_kind(field: dataclasses.Field[Any]) -> type:
    """What a flag's text is read as: int for int and for int | None."""
    kind: Any = field.type
    return next(each for each in kind.__args__ if each is not type(None)) if isinstance(kind, types.UnionType) else kind


def _method_in(arguments: Sequence[str]) -> str | None:
    """The method that is asked for, if there is one of that name."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--method")
    method = first.parse_known_args(arguments)[0].method
    if method is None or (".py" not in method and not _is_registered(method)):
        return None
    return catalogue.canonical(method)


def _is_registered(method: str) -> bool:
    try:
        methods.canonical_name(method)
    except ValueError:
        return False
    return True


# --- Help -----------------------------------------------------------------------------------------------------------


def answer(argv: Sequence[str]) -> str | None:
    """The text that `--help` or `--list-…` asks for; None where neither is there.

    Raises:
      ValueError: for an unknown method.
      FileNotFoundError: for a method in a file that is not there.
    """
    for item in argv:
        if item in _LISTS:
            return _LISTS[item]()
    return help_text([item for item in argv if item not in _HELP]) if set(argv) & set(_HELP) else None


def help_text(argv: Sequence[str], width: int | None = None) -> str:
    """The flags of a run, and those of the method if one is named, with the values that they have if not given.

    Raises:
      ValueError: for an unknown method.
      FileNotFoundError: for a method in a file that is not there.
    """
    width = min(width or shutil.get_terminal_size((110, 24)).columns, 120)
    given = parse(argv)
    named = "method" in given or "loss" in given
    try:
        settings, sources = config.resolve(given)
    except ValueError:  # what contradicts itself is told when it is run
        settings, sources = config.resolve({k: given[k] for k in ("method", "dataset") if k in given})
    known = catalogue.entry(settings.method)
    values = dataclasses.asdict(settings) | dict.fromkeys(settings.by_size, "by the data's size")
    parts = [
        f"usage: {program()} [--method=NAME] [--dataset=NAME] [--SETTING=VALUE …]",
        _filled(
            "Train one method on one data set. What is not given comes from a recipe: that of the method's own paper "
            "for the data set if there is one, else the one that all other methods share; --recipe=PAPER/DATASET takes "
            "any paper's, whatever the method (--list-datasets). "
            f"The values shown here in parentheses are those for {known.name} on {settings.dataset}"
            + (f" ({'; '.join(sources)})." if sources else "."),
            width,
        ),
    ]
    for title in dict.fromkeys(field.metadata["group"] for field in dataclasses.fields(config.Config)):
        fields = [each for each in dataclasses.fields(config.Config) if each.metadata["group"] == title]
        if title is not None:
            rows = [(_flag(each.name, field_kind(each), each.metadata.get("choices")),
                     _described(each.metadata["help"], values[each.name], each.metadata.get("choices")))
                    for each in fields]  # fmt: skip
            parts.append(_section(title, rows, width))
    if named:
        parts.append(_method_section(settings, {**settings.options, **values}, known, width))
    more = "" if named else f"`{program()} --method=NAME --help` also shows the options of that method. "
    parts.append(_filled(f"{more}{', '.join(_LISTS)}: what there is.", width))
    return "\n\n".join(parts)


def _method_section(settings: config.Config, values: Mapping[str, Any], known: Any, width: int) -> str:
    facts = [fact.rstrip(".") + "." for fact in (catalogue.summary(known), known.paper) if fact]
    facts += [f"Needs {', '.join(known.needs)}."] if known.needs else []
    facts += [f"Networks: {known.networks}; kept for each example: {known.memory}; cost of a step: {known.cost:g}."]
    rows = [
        (_flag(name, option.kind), _described(option.help, values[name]))
        for name, option in catalogue.options(known).items()
    ]
    place = user_code.find(settings.method)
    title = f"options of {known.name}" + (f" in {place.path}" if place else "")
    return _filled(" ".join(facts), width) + "\n\n" + _section(title, rows or [("none", "")], width)


def _flag(name: str, kind: type, choices: Sequence[str] | None = None) -> str:
    flag = name.replace("_", "-")
    if kind is bool:
        return f"--[no-]{flag}"
    return f"--{flag}={'KIND' if choices else {str: 'TEXT', int: 'INT', float: 'NUMBER'}[kind]}"


def _described(text: str, value: Any, choices: Sequence[str] | None = None) -> str:
    known = text if not choices else f"{text}: {', '.join(choices)}"
    shown = f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
    return known.rstrip(".") + ("" if value is None or value == "" else f" ({shown})")


def _section(title: str, rows: Sequence[tuple[str, str]], width: int) -> str:
    column = 30
    lines = [f"{title}:"]
    for flag, text in rows:
        first, *rest = textwrap.wrap(text, width - column, break_long_words=False) or [""]
        head = f"  {flag}"
        if len(head) > column - 2:
            lines.append(head)
            head = ""
        lines += [f"{head:<{column}}{first}".rstrip(), *(" " * column + line for line in rest)]
    return "\n".join(lines)


def _filled(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)
