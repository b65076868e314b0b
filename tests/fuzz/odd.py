"""Odd numbers, texts and changes of texts and bytes that several families use."""

import json
import random

NUMBERS = (
    "0",
    "-1",
    "1",
    "nan",
    "NaN",
    "inf",
    "-inf",
    "1e309",
    "-1e308",
    "1e38",
    "1e10",
    "1e-300",
    "1e400",
    "-0.0",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "1" + "0" * 400,
    "9" * 5000,
    "0x10",
    "1_000",
    "1.5",
    "3.0",
    "1d5",
    "1e",
    ".",
    "--",
    "+-1",
    "٣",
    "½",
    "1,5",
    "T",
    "true",
    "None",
)
TEXTS = (
    "",
    " ",
    "\t",
    "a",
    "é",
    "😀",
    "\ufeff",
    "\x7f",
    "\x1b[31m",
    "%s",
    "%(prog)s",
    "{0}",
    "{",
    "}",
    "[",
    "]",
    "'",
    '"',
    "\\",
    "\\n",
    "*",
    "**",
    "~",
    ".",
    "..",
    "-",
    "--",
    "@",
    "@:",
    "@0",
    "@-5:",
    "@::0",
    "x" * 300,
    "x" * 5000,
    "/dev/full",
    "/dev/null",
    "/proc/self/mem",
    "/proc/none",
    "nul",
    "none.xyz",
    "none.model",
    "REF_energy",
    "REF_forces",
    "energy",
    "forces",
    "IsolatedAtom",
    "sparse",
    "auto",
    "null",
)
BYTES = (
    b"\0",
    b"\xff",
    b"\xfe\xff",
    b"\n",
    b"\r",
    b"\r\n",
    b" ",
    b"\t",
    b'"',
    b"'",
    b"=",
    b"#",
    b"[",
    b"{",
    b"-",
    b"e",
    b"9",
    b"\xc3",
    b"\xf0\x9f",
)


def number(rng: random.Random) -> str:
    """A number, or what looks like one."""
    kind = rng.randrange(3)
    if kind == 0:
        return rng.choice(NUMBERS)
    if kind == 1:
        return repr(rng.uniform(-1, 1) * 10.0 ** rng.randint(-20, 20))
    return str(rng.randint(-10, 1000))


def text(rng: random.Random) -> str:
    """A text, often a nasty one."""
    if rng.random() < 0.7:
        return rng.choice(TEXTS + NUMBERS)
    return "".join(
        chr(rng.choice((rng.randrange(32, 127), rng.randrange(1, 0xD7FF)))) for _ in range(rng.randint(1, 12))
    )


def value(rng: random.Random, depth: int = 0):
    """A JSON value."""
    kinds = (
        lambda: None,
        lambda: rng.choice((True, False)),
        lambda: rng.randint(-10, 200),
        lambda: rng.choice((2**31, 2**63, -(2**63), 10**30, 0)),
        lambda: rng.uniform(-1e3, 1e3),
        lambda: rng.choice((float("nan"), float("inf"), 1e308)),
        lambda: text(rng),
        lambda: [value(rng, depth + 1) for _ in range(rng.randint(0, 3))],
        lambda: {text(rng): value(rng, depth + 1) for _ in range(rng.randint(0, 3))},
    )
    return rng.choice(kinds if depth < 3 else kinds[:7])()


def json_text(rng: random.Random) -> str:
    """What may stand where JSON is expected."""
    if rng.random() < 0.02:
        return rng.choice(
            ("[" * 100_000, '{"a":' * 50_000, "9" * 5000, "", " " * 1_000_001, json.dumps(list(range(1, 200_002))))
        )
    return json.dumps(value(rng)) if rng.random() < 0.7 else text(rng)


def changed_text(rng: random.Random, old: str) -> str:
    """One change of a text."""
    i = rng.randrange(len(old) + 1)
    j = min(len(old), i + rng.randint(0, 5))
    kind = rng.randrange(4)
    new = (
        text(rng) if kind == 0 else "" if kind == 1 else old[i:j] * 2 if kind == 2 else rng.choice("0123456789-.eE \t")
    )
    return old[:i] + new + old[j:]


def changed_bytes(rng: random.Random, old: bytes) -> bytes:
    """One to three changes of bytes: a bit flipped, a piece cut out, doubled, moved or put in, the end cut off."""
    data = bytearray(old)
    for _ in range(rng.randint(1, 3)):
        i = rng.randrange(len(data) + 1)
        j = min(len(data), i + rng.choice((1, 1, 8, 100)))
        kind = rng.randrange(6)
        if kind == 0 and i < len(data):
            data[i] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[i:j]
        elif kind == 2:
            data[i:i] = data[i:j]
        elif kind == 3:
            data[i:j] = bytes(rng.randrange(256) for _ in range(j - i))
        elif kind == 4:
            data[i:i] = rng.choice(BYTES)
        elif rng.random() < 0.5:
            del data[i:]
    return bytes(data)
