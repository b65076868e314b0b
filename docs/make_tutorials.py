"""Run the tutorials and write their outputs into them. `--check` runs them and writes nothing.

    pip install -c constraints.txt ".[mace,notebooks]"           # molecule
    pip install -c constraints-sevenn.txt ".[sevenn,notebooks]"  # crystal
    python docs/make_tutorials.py molecule

Two to three minutes each on two cores.
"""

import argparse
import os
import pathlib
import resource
import sys
import time

import nbformat
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).parent / "tutorials"

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    # `pathtune` in a cell is the one of this Python
    os.environ["PATH"] = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    for name in args.names:
        file = FOLDER / f"{name}.ipynb"
        notebook = nbformat.read(file, as_version=4)
        start = time.perf_counter()
        NotebookClient(notebook, timeout=1200, coalesce_streams=True, record_timing=False).execute()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = used.ru_utime + used.ru_stime
        print(f"{file.name}: {time.perf_counter() - start:.0f} s, of the processor {cpu:.0f} s so far")
        if not args.check:
            nbformat.write(notebook, file)
