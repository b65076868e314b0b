"""Making a store: every record is checked once, in parallel, and what is bad is listed record by record."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import os
import pathlib
import shutil
from collections.abc import Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from pathtune._version import __version__
from pathtune.data.labels import LabelKeys, labels, outputs
from pathtune.data.neighbours import count_edges
from pathtune.data.notes import keys_in, notes_on
from pathtune.data.readers import from_atoms
from pathtune.data.store.inputs import Part, frames_of, listed, pieces
from pathtune.data.store.layout import MANIFEST, PLAN, VERSION, packed
from pathtune.data.store.manifest import finish
from pathtune.data.structure import Structure
from pathtune.errors import InputError
from pathtune.files import checked_path, read_bytes, shown_names, write_atomically, write_text
from pathtune.forms import check_form, read_json

COUNTED_A = 5.0  # edges are counted within it where no cutoff is asked
PROBED = 100  # frames of a large file that say under which keys its labels are
MOST_NOTES = 20
RECORD = {"n": int, "bad": [str], "notes": [str], "present": [str]}  # of a piece,
OF_SHARD = {"file": str, "bytes": int, "sha256": str, "n_atoms": int, "labels": [str]}  # and of one with structures


@dataclasses.dataclass(frozen=True)
class Job:
    """What is the same for all pieces."""

    out: str
    keys: LabelKeys
    r_max: float
    needs_labels: bool


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What became of the records."""

    n_structures: int
    bad: tuple[str, ...]  # one sentence for each record that was left out
    notes: tuple[str, ...]


def prepare(
    files: Sequence[str],
    out: str | pathlib.Path,
    keys: LabelKeys | None = None,
    r_max: float | None = None,
    jobs: int | None = None,
    skip_bad: bool = False,
    needs_labels: bool = True,
) -> Prepared:
    """Make a store of `files` (names, globs, folders) in the folder `out`, or go on with one that was interrupted.

    `r_max`: the cutoff (A) of the models that it is for; without, edges are counted within 5 A and any model is served.
    `jobs`: processes, by default one for each core. `needs_labels`: a structure without energy and forces is bad, and
    so is a key that no structure has. With bad records and not `skip_bad` no store is finished; a later call goes on
    from here. Raises InputError for missing files, a folder that holds something else, and a key of no structure.
    """
    names = listed(files)
    if r_max is not None and not 0 < r_max < 100:
        raise InputError(f"r_max is {r_max}, expected a cutoff in A above 0 and below 100")
    job = Job(str(out), keys or LabelKeys(), r_max or COUNTED_A, needs_labels)
    folder = checked_path(out)
    _claim(folder, names, job)
    parts = [record for k in range(_written(folder, names, job, jobs)) if (record := _record(folder, k))]
    bad = tuple(sentence for part in parts for sentence in part["bad"])
    notes = tuple(dict.fromkeys(note for part in parts for note in part["notes"]))[:MOST_NOTES]
    n = sum(part["n"] for part in parts)
    if needs_labels and n:
        _check_present(out, parts, job.keys)
    if bad:
        write_text(folder / "bad.txt", "".join(f"{sentence}\n" for sentence in bad))
    if bad and not skip_bad:
        return Prepared(n, bad, notes)
    if not n:
        raise InputError(f"{out}: no structure is left, expected at least one")
    finish(
        folder,
        parts,
        {
            "r_max": job.r_max,
            "is_r_max_asked": r_max is not None,
            "n_bad": len(bad),
            "notes": list(notes),
            "keys": dict(job.keys.keys),
            "virials_key": job.keys.virials_key,
            "units": list(job.keys.units or ()),
            "pathtune": __version__,
        },
    )
    (folder / PLAN).unlink(missing_ok=True)
    return Prepared(n, bad, notes)


def _claim(folder: pathlib.Path, names: Sequence[str], job: Job) -> None:
    """Make the folder, or find in it an unfinished store of the same files and options; of others, begin anew."""
    if (folder / MANIFEST).exists():
        raise InputError(f"{folder}: holds a finished store, expected a new folder")
    plan_file = folder / PLAN
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, expected a folder for the store")
    if folder.is_dir() and any(folder.iterdir()) and not plan_file.exists():
        raise InputError(f"{folder}: is not empty, expected a new folder for the store")
    sizes = [[name, os.stat(name).st_size, os.stat(name).st_mtime_ns] for name in names]
    keys = [sorted(job.keys.keys.items()), job.keys.virials_key, job.keys.units]
    options = [VERSION, keys, job.r_max, job.needs_labels, [label.name for label in labels()]]
    plan = json.dumps({"files": sizes, "options": options}, indent=0)
    if plan_file.exists() and read_bytes(plan_file) == plan.encode():
        return
    for name in ("shards", "index"):
        shutil.rmtree(folder / name, ignore_errors=True)
    write_text(plan_file, plan)


def _written(folder: pathlib.Path, names: Sequence[str], job: Job, jobs: int | None) -> int:
    """Make the pieces that are not on disk yet; how many pieces there are."""
    n_jobs = jobs or len(os.sched_getaffinity(0))
    probed: dict[str, LabelKeys] = {}
    waiting: set[futures.Future] = set()
    n_pieces = 0
    # Spawned processes would not know labels and readers that a user registered.
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else None)
    with futures.ProcessPoolExecutor(n_jobs, context) if n_jobs > 1 else contextlib.nullcontext() as pool:
        for number, piece in enumerate(pieces(names)):
            n_pieces = number + 1
            if _is_done(folder, number):
                continue
            keys = _keys_of(piece[0], job, probed) if piece[0].is_cut else None
            if pool is None:
                write_piece(job, number, piece, keys)
                continue
            waiting.add(pool.submit(write_piece, job, number, piece, keys))
            if len(waiting) >= 2 * n_jobs:
                waiting = _finished(waiting, futures.FIRST_COMPLETED)
        _finished(waiting, futures.ALL_COMPLETED)
    return n_pieces


def _finished(waiting: set[futures.Future], when: str) -> set[futures.Future]:
    done, rest = futures.wait(waiting, return_when=when)
    try:
        for future in done:
            future.result()
    except BrokenProcessPool as error:
        raise InputError(
            "prepare: a process was killed (out of memory?), expected all to end: try fewer --jobs"
        ) from error
    return rest


def write_piece(job: Job, number: int, piece: Sequence[Part], keys: LabelKeys | None) -> None:
    """Check the frames of a piece, write those that are good as a shard, and beside it what became of all of them.

    `keys`: what the labels are called in a file that other pieces share; None: each part is a whole file.
    """
    good: list[Structure] = []
    places: list[tuple[str, int]] = []
    n_edges: list[int] = []
    bad: list[str] = []
    notes: list[str] = []
    present: set[str] = set()
    for part in piece:
        frames = list(frames_of(part))
        readable = [atoms for _, atoms in frames if not isinstance(atoms, str)]
        used = keys or keys_in(readable, job.keys)
        first = len(good)
        for k, atoms in frames:
            where = f"{part.file}, frame {k}"
            try:
                structure, count = _checked(atoms, used, where, job)
            except InputError as error:
                bad.append(str(error) if str(error).startswith(part.file) else f"{where}: {error}")
                continue
            good.append(structure)
            places.append((part.file, k))
            n_edges.append(count)
        present |= {str(key) for atoms in readable[:1] for key in (*atoms.info, *atoms.arrays)}
        if keys is None or part.first == 0:
            notes += [f"{part.file}: {note}" for note in notes_on(readable, good[first:], job.keys, used)]
    record: dict[str, Any] = {"n": len(good), "bad": bad, "notes": notes, "present": sorted(present)}
    file = pathlib.Path(job.out) / "shards" / f"{number:06d}.safetensors"
    if good:
        content = packed(good, places, n_edges)
        write_atomically(file, lambda stream: stream.write(content))
        record |= {
            "file": file.name,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "n_atoms": sum(len(s) for s in good),
            "labels": sorted({name for s in good for name in s.labels}),
        }
    write_text(file.with_suffix(".json"), json.dumps(record))


def _checked(atoms: Any, keys: LabelKeys, where: str, job: Job) -> tuple[Structure, int]:
    """The structure and its number of edges. InputError for a record that is bad."""
    if isinstance(atoms, str):
        raise InputError(f"{where}: {atoms}")
    structure = from_atoms(atoms, keys, where)
    needed = [label for label in outputs() if not label.is_optional]
    if job.needs_labels and not any(label.name in structure.labels for label in needed):
        raise InputError(f"{where}: has neither {' nor '.join(keys.of(label) for label in needed)}, expected a label")
    return structure, count_edges(structure, job.r_max)


def _keys_of(part: Part, job: Job, probed: dict[str, LabelKeys]) -> LabelKeys:
    """What the labels of a file are called, as its first frames say."""
    if part.file not in probed:
        first = dataclasses.replace(part, texts=part.texts[:PROBED]) if part.texts else part
        frames = (atoms for _, atoms in frames_of(first) if not isinstance(atoms, str))
        probed[part.file] = keys_in(list(itertools.islice(frames, PROBED)), job.keys)
    return probed[part.file]


def _is_done(folder: pathlib.Path, number: int) -> bool:
    record = _record(folder, number)
    if record is None or not record["n"]:
        return record is not None
    file = folder / "shards" / record["file"]
    return file.is_file() and file.stat().st_size == record["bytes"]


def _record(folder: pathlib.Path, number: int) -> dict[str, Any] | None:
    file = folder / "shards" / f"{number:06d}.json"
    try:
        record = read_json(file, RECORD)
        check_form(record, OF_SHARD if record["n"] else {}, str(file))
    except InputError:  # not written yet, or damaged: the piece is made again
        return None
    return record


def _check_present(out: str | pathlib.Path, parts: Sequence[dict[str, Any]], keys: LabelKeys) -> None:
    """Raise InputError for a label that is needed, or whose key was asked, and that no structure has."""
    found = {name for part in parts for name in part.get("labels", ())}
    for label in labels():
        is_asked = keys.of(label) != label.key or not (label.is_optional or label.is_input)
        if is_asked and label.name not in found:
            present = shown_names(sorted({key for part in parts for key in part["present"]}))
            raise InputError(f"{out}: no structure has the {label.name} key {keys.of(label)!r}; present: {present}")
