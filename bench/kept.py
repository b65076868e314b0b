"""Runs that are kept as lines of a JSONL, each when it ends, so that a driver that is called again goes on."""

import json


def lines_of(file):
    """What is kept so far."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def keep(file, of, run):
    """The line of `of`, a dict, that is there, or that which `run()` gives beside it: written, and printed."""
    for line in lines_of(file):
        if all(line.get(key) == value for key, value in of.items()):
            return line
    return write(file, {**of, **run()})


def write(file, line):
    """One line more."""
    with file.open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)
    return line
