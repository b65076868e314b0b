"""Registers, spills and shared memory of every CUDA kernel on every architecture, as ptxas reports them.

    python tests/nvcc/resources.py        # rewrites tests/nvcc/budget.json with what is found

budget.json is the committed budget: a kernel that needs more registers or shared memory than it says fails
tests/nvcc/test_resources.py. A warning of nvcc or a register spill is an error of the compilation itself.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).parents[2]
BUDGET = pathlib.Path(__file__).parent / "budget.json"
ARCHITECTURES = ("sm_90",)  # the build compiles for all of them, where warnings and spills are errors too
FLAGS = ["-std=c++17", "-O3", "-cubin", "--expt-relaxed-constexpr", "-Werror", "all-warnings", "-Xptxas",
         "-v,-warn-spills,-warn-lmem-usage,-Werror", f"-I{ROOT / 'csrc'}"]  # fmt: skip
ENTRY = re.compile(r"Compiling entry function '(\w+)'")
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def find_nvcc() -> str | None:
    """The CUDA compiler: CUDACXX, or the one on the PATH."""
    return os.environ.get("CUDACXX") or shutil.which("nvcc")


def sources() -> list[pathlib.Path]:
    """The files that hold kernels."""
    return sorted((ROOT / "csrc").glob("*/cuda*.cu"))


def compile_one(nvcc: str, source: pathlib.Path, arch: str) -> str:
    """What nvcc and ptxas say; RuntimeError with it when they refuse."""
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, *FLAGS, f"-arch={arch}", str(source), "-o", f"{folder}/out.cubin"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = [line for line in (done.stdout + done.stderr).splitlines() if re.search("error|warning", line)]
        raise RuntimeError(f"{source.parent.name}/{source.name} for {arch}:\n" + "\n".join(said[:20]))
    return done.stdout + done.stderr


def short(mangled: list[str]) -> dict[str, str]:
    """Readable names: no namespaces, no arguments."""
    text = subprocess.run(["c++filt", *mangled], capture_output=True, text=True, check=True).stdout
    text = re.sub(
        r"\(anonymous namespace\)::|\(pathtune::cuda::\w+\)|pathtune::cuda::|pathtune::|^void ",
        "",
        text,
        flags=re.MULTILINE,
    )
    names = [line.split("(")[0] for line in text.splitlines()]
    return dict(zip(mangled, names))


def parse(log: str) -> dict[str, dict[str, int]]:
    """Per kernel: registers, spilled bytes, static shared memory."""
    found: dict[str, dict[str, int]] = {}
    for part in ENTRY.split(log)[1:]:
        if re.fullmatch(r"\w+", part):
            name = part
            continue
        spills = SPILLS.search(part)
        used = USED.search(part)
        shared = SHARED.search(part)
        if not spills or not used:
            raise RuntimeError(f"ptxas says nothing of {name}: {part}")
        found[name] = {
            "registers": int(used[1]),
            "spilled_bytes": int(spills[2]) + int(spills[3]),
            "static_shared_bytes": int(shared[1]) if shared else 0,
        }
    return found


def measure(nvcc: str, architectures: tuple[str, ...] = ARCHITECTURES) -> dict[str, dict[str, dict[str, int]]]:
    """Resources by architecture and kernel."""
    jobs = [(source, arch) for arch in architectures for source in sources()]
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        logs = list(pool.map(lambda job: compile_one(nvcc, *job), jobs))
    result: dict[str, dict[str, dict[str, int]]] = {arch: {} for arch in architectures}
    for (_, arch), log in zip(jobs, logs):
        kernels = parse(log)
        names = short(list(kernels)) if kernels else {}
        result[arch] |= {names[mangled]: used for mangled, used in kernels.items()}
    return {arch: dict(sorted(kernels.items())) for arch, kernels in result.items()}


def main() -> None:
    nvcc = find_nvcc()
    if nvcc is None:
        raise SystemExit("no CUDA compiler: set CUDACXX or install nvidia-cuda-nvcc")
    BUDGET.write_text(json.dumps(measure(nvcc), indent=1) + "\n")
    print(BUDGET)


if __name__ == "__main__":
    main()
