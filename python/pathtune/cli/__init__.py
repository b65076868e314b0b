"""The command line: `pathtune VERB`, one file per verb with add_arguments(parser) and run(args)."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from pathtune.errors import InputError

VERBS = {
    "demo": "tune the model that comes with pathtune, compare with full fine-tuning",
    "paths": "list every adaptable weight of a model",
    "fit": "fine-tune a model on labelled structures",
    "evaluate": "errors of a model on labelled structures",
    "merge": "fold an adapter into a plain model",
    "bench": "time training steps against the stock package",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. A user's mistake prints one sentence and returns 2; Ctrl-C returns 130.

    A reader that stops early, as in `pathtune paths | head`, ends the program quietly with 141, as SIGPIPE would.
    """
    parser = argparse.ArgumentParser(prog="pathtune", description="Sparse fine-tuning of equivariant potentials.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    modules = {name: importlib.import_module(f"pathtune.cli.{name}") for name in VERBS}
    for name, module in modules.items():
        module.add_arguments(verbs.add_parser(name, help=VERBS[name], description=module.__doc__))
    args = parser.parse_args(argv)
    try:
        status = modules[args.verb].run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 141
    except (InputError, ImportError) as error:
        print(f"pathtune {args.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        hint = " ; the same command with --resume continues it" if args.verb == "fit" else ""
        print(f"pathtune {args.verb}: interrupted{hint}", file=sys.stderr)
        return 130
