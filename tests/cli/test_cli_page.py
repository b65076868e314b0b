"""docs/cli.md is what the parsers say, and names every flag."""

import pathlib
import subprocess
import sys

from pathtune.cli import verb_modules, verb_parsers

ROOT = pathlib.Path(__file__).parent.parent.parent


def test_the_page_of_the_command_line_is_current():
    """In a process of its own: tests register labels and adaptations, whose flags follow."""
    done = subprocess.run([sys.executable, str(ROOT / "docs" / "make_cli.py"), "--check"],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_names_every_verb_and_every_flag_of_fit():
    text = (ROOT / "docs" / "cli.md").read_text()
    _, verbs = verb_parsers(verb_modules())
    assert all(f"## pathtune {name}\n" in text for name in verbs)
    for flag in ("--model", "--train", "--active-share", "--lora-targets", "--from-mace", "--energy-key"):
        assert f"`{flag}`" in text, flag
