"""The command line: `pathtune VERB`, one file per verb with add_arguments(parser) and run(args)."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from pathtune._version import __version__
from pathtune.errors import InputError

VERBS = {
    "demo": "tune the model that comes with pathtune, compare with full fine-tuning",
    "paths": "list every adaptable weight of a model",
    "prepare": "check structures once and keep them as a store, for large sets",
    "fit": "fine-tune a model on labelled structures",
    "report": "a page of what a run changed, gained and forgot, or of how several compare",
    "compare": "train several arms alike on your data: which one, how many weights",
    "describe": "what a run did, as a paragraph for a methods section",
    "evaluate": "errors of a model on labelled structures",
    "merge": "fold an adapter into a plain model",
    "export": "a model as a folder of text and safetensors, without pickle",
    "show": "what an adapter says of itself",
    "diff": "what two adapters of one model change, weight by weight",
    "blend": "one adapter of several, each times a weight",
    "extract": "an adapter of a model that was tuned elsewhere",
    "bench": "time training steps against the stock package",
}


def verb_parsers(modules: dict[str, ModuleType]) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of the command line, and that of each verb by its name."""
    parser = argparse.ArgumentParser(prog="pathtune", description="Sparse fine-tuning of equivariant potentials.")
    parser.add_argument("--version", action="version", version=f"pathtune {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for name, module in modules.items():
        module.add_arguments(verbs.add_parser(name, help=VERBS[name], description=module.__doc__))
    return parser, verbs.choices


def verb_modules() -> dict[str, ModuleType]:
    """The module of each verb by its name."""
    return {name: importlib.import_module(f"pathtune.cli.{name}") for name in VERBS}


def _parsed(modules: dict[str, ModuleType], argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; a mistake in a verb's flags prints the usage of that verb, no verb the list of verbs."""
    parser, verbs = verb_parsers(modules)
    args, unknown = parser.parse_known_args(argv)
    if args.verb is None:
        parser.print_help(sys.stderr)
        print("\npathtune: VERB is missing, expected one of those above", file=sys.stderr)
        raise SystemExit(2)
    if unknown:
        verbs[args.verb].error(f"unrecognized arguments: {' '.join(unknown)}")
    for action in verbs[args.verb]._actions:
        if action.nargs is None and isinstance(getattr(args, action.dest, None), list):  # what argparse makes of "--"
            verbs[args.verb].error(f"argument {'/'.join(action.option_strings)}: expected one argument")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. A user's mistake prints one sentence and returns 2; Ctrl-C returns 130.

    A reader that stops early, as in `pathtune paths | head`, ends the program quietly with 141, as SIGPIPE would.
    """
    modules = verb_modules()
    try:
        args = _parsed(modules, argv)
    except InputError as error:  # two registered adaptations that ask for one flag
        print(f"pathtune: {error}", file=sys.stderr)
        return 2
    try:
        status = modules[args.verb].run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        _give_up_output()
        return 141
    except (InputError, ImportError) as error:
        print(f"pathtune {args.verb}: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a file that went away, a standard output on a full disk
        place = "" if error.filename is None else f"{error.filename}: "
        print(f"pathtune {args.verb}: {place}{error.strerror or error}", file=sys.stderr)
        _give_up_output()
        return 2
    except KeyboardInterrupt:
        hint = " ; the same command with --resume continues it" if args.verb == "fit" else ""
        print(f"pathtune {args.verb}: interrupted{hint}", file=sys.stderr)
        return 130


def _give_up_output() -> None:
    """Where standard output cannot be written to, let the flush at exit go nowhere."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
