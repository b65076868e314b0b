"""Write docs/cli.md, every flag of every verb, from the parsers themselves.

    python docs/make_cli.py            # rewrite it
    python docs/make_cli.py --check    # exit status 1 when it is not what the parsers say
"""

from __future__ import annotations

import argparse
import pathlib
import sys

from pathtune.cli import VERBS, verb_modules, verb_parsers

PAGE = pathlib.Path(__file__).parent / "cli.md"
HEAD = """# Command line

Every flag of every verb. This page is written by `docs/make_cli.py` from the parsers themselves; `pathtune VERB --help`
prints the same. What the verbs do, and what a run leaves, is in [api.md](api.md).

A mistake in the input ends a command with one sentence and status 2; an interruption with status 130; a run that ended
worse than it began with status 1. Flags of `fit` may also stand in a TOML file, `--config`; flags win.
"""


def cell(text: str) -> str:
    """A text as a cell of a table takes it."""
    return " ".join(text.split()).replace("|", "\\|").replace("*", "\\*")


def value_of(action: argparse.Action) -> str:
    """What is to be written behind the flag."""
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return ""
    if action.choices:
        name = "{" + ",".join(map(str, action.choices)) + "}"
    else:
        name = str(action.metavar or action.dest).upper()
    if action.nargs == argparse.REMAINDER:
        return " ..."
    return f" {name} ..." if action.nargs in ("+", "*") else f" {name}"


def table(actions: list[argparse.Action]) -> list[str]:
    """A row for each flag."""
    lines = ["| flag | what it does |", "|---|---|"]
    for action in actions:
        flags = ", ".join(f"`{flag}`" for flag in action.option_strings) or f"`{action.metavar or action.dest}`"
        value = value_of(action).replace("|", "\\|") if action.option_strings else ""
        help_text = cell((action.help or "") % {"prog": "", "default": action.default})
        lines.append(f"| {flags}{f' `{value.strip()}`' if value else ''} | {help_text} |")
    return lines


def flags_of(parser: argparse.ArgumentParser, heading: str) -> list[str]:
    """A verb's section; a verb of verbs has one for each."""
    lines = [f"\n{heading}\n", (parser.description or "").strip()]
    for group in parser._action_groups:
        nested = [a for a in group._group_actions if isinstance(a, argparse._SubParsersAction)]
        actions = [a for a in group._group_actions if a not in nested and a.dest != "help"]
        if actions:
            title = group.title or ""
            is_named = title not in ("options", "positional arguments")
            lines += ["", f"**{title}**" if is_named else f"{title.capitalize()}:", "", *table(actions)]
        for action in nested:
            for name, inner in action.choices.items():
                lines += flags_of(inner, f"#{heading} {name}")
    return lines


def page() -> str:
    """The whole page."""
    _, verbs = verb_parsers(verb_modules())
    lines = [HEAD.rstrip(), "", "| verb | what it does |", "|---|---|"]
    lines += [f"| [{name}](#pathtune-{name}) | {text} |" for name, text in VERBS.items()]
    for name, parser in verbs.items():
        lines += flags_of(parser, f"## pathtune {name}")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write or check the page."""
    text = page()
    if "--check" in sys.argv:
        if not PAGE.exists() or PAGE.read_text() != text:
            print(f"{PAGE}: is not what the parsers say: run python docs/make_cli.py")
            return 1
        return 0
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
