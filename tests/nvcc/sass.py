"""What the kernels are in machine code: loads and stores by width, local memory, instructions, as nvdisasm shows them.

    python tests/nvcc/sass.py        # rewrites tests/nvcc/sass.json with what is found

nvdisasm is NVIDIA's: of the CUDA toolkit, or `pip install nvidia-cuda-nvdisasm==13.2.78`.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sysconfig
import tempfile

from resources import FLAGS, find_nvcc, short, sources

FILE = pathlib.Path(__file__).parent / "sass.json"
ARCHITECTURE = "sm_90"
LABEL = re.compile(r"\s*(\.L_x_\d+):")
INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P[\dT]+\s+)?([A-Z][A-Z0-9_.]*)\s?(.*?);")
TARGET = re.compile(r"`\((\.L_x_\d+)\)")
# in local memory, or through a pointer of which the compiler does not know the memory
BAD = re.compile(r"(LDL|STL|LD|ST)(\.|$)")


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel's machine code, counted."""

    instructions: int
    loops: list[int]  # instructions from the target of each jump backwards to the jump, ascending
    loads: dict[int, int]  # global loads by their bytes for each thread
    stores: dict[int, int]
    bad: list[str]  # accesses that no kernel of ours may have


def find_nvdisasm() -> str | None:
    """NVDISASM, the one on the PATH, or the PyPI wheel's."""
    wheel = pathlib.Path(sysconfig.get_path("purelib")) / "nvidia" / "cu13" / "bin" / "nvdisasm"
    found = os.environ.get("NVDISASM") or shutil.which("nvdisasm")
    return found or (str(wheel) if wheel.exists() else None)


def n_bytes(operation: str) -> int:
    """Bytes for each thread of an operation such as LDG.E.128."""
    width = re.search(r"\.(U?8|S8|U?16|S16|64|128)(?=\.|$)", operation)
    return int(re.sub("[US]", "", width[1])) // 8 if width else 4


def parse(text: str) -> dict[str, Kernel]:
    """By mangled name, from what nvdisasm -c prints."""
    found = {}
    for part in re.split(r"\n\.text\.", text)[1:]:
        labels: dict[str, int] = {}
        code: list[tuple[str, str]] = []
        for line in part.splitlines():
            label, instruction = LABEL.match(line), INSTRUCTION.match(line)
            if label:
                labels[label[1]] = len(code)
            elif instruction:
                code.append((instruction[1], instruction[2]))
        end = next((i for i in range(len(code) - 1, -1, -1) if code[i][0] != "NOP"), -1)  # padding follows
        code = code[: end + 1]
        found[part.partition(":")[0]] = _counted(code, labels)
    return found


def _counted(code: list[tuple[str, str]], labels: dict[str, int]) -> Kernel:
    loops, widths = [], {"LDG": {}, "STG": {}}
    for i, (operation, operands) in enumerate(code):
        target = TARGET.search(operands) if operation.startswith("BRA") else None
        begin = labels.get(target[1], i) if target else i
        if begin < i:
            loops.append(i - begin + 1)
        kind = widths.get(operation[:3]) if re.match(r"(LDG|STG)(\.|$)", operation) else None
        if kind is not None:
            kind[n_bytes(operation)] = kind.get(n_bytes(operation), 0) + 1
    bad = [operation for operation, _ in code if BAD.match(operation)]
    return Kernel(len(code), sorted(loops), widths["LDG"], widths["STG"], bad)


def of_source(nvcc: str, nvdisasm: str, source: pathlib.Path) -> dict[str, Kernel]:
    """The kernels of one file, by readable name."""
    flags = [flag for flag in FLAGS if "warn" not in flag and flag not in ("-Werror", "all-warnings", "-Xptxas")]
    with tempfile.TemporaryDirectory() as folder:
        cubin = f"{folder}/out.cubin"
        subprocess.run([nvcc, *flags, f"-arch={ARCHITECTURE}", str(source), "-o", cubin], check=True)
        text = subprocess.run([nvdisasm, "-c", cubin], check=True, capture_output=True, text=True).stdout
    kernels = parse(text)
    names = short(list(kernels))
    return {names[mangled]: kernel for mangled, kernel in kernels.items()}


def measure(nvcc: str, nvdisasm: str) -> dict[str, Kernel]:
    """Every kernel of ours, by its name in budget.json."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        parts = pool.map(lambda source: of_source(nvcc, nvdisasm, source), sources())
        found = {name: kernel for kernels in parts for name, kernel in kernels.items()}
    return dict(sorted(found.items()))


def row(kernel: Kernel) -> dict[str, int]:
    """What is committed of a kernel."""
    return {
        "instructions": kernel.instructions,
        "longest_loop": max(kernel.loops, default=0),
        "load_bytes": max(kernel.loads, default=0),
        "store_bytes": max(kernel.stores, default=0),
    }


def main() -> None:
    nvcc, nvdisasm = find_nvcc(), find_nvdisasm()
    if nvcc is None or nvdisasm is None:
        raise SystemExit("no nvcc or no nvdisasm: set CUDACXX, NVDISASM, or install nvidia-cuda-nvdisasm")
    FILE.write_text(json.dumps({name: row(k) for name, k in measure(nvcc, nvdisasm).items()}, indent=1) + "\n")
    print(FILE)


if __name__ == "__main__":
    main()
