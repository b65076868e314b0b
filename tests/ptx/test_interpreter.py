"""The interpreter of PTX itself: what instructions compute, and that it finds defects planted into kernels."""

import pathlib
import struct
import subprocess

import numpy as np
import pytest
from device import host_name, plain_name
from interpreter import Launch, Run
from memory import HostMemory
from program import PtxError, parse
from traffic import Traffic

DEFECTS = pathlib.Path(__file__).with_name("defects.cu")
N_BLOCKS, N_THREADS = 3, 96
ENTRY = """.version 9.0
.visible .entry one(
	.param .u64 one_param_0
)
{{
	.reg .pred %p<4>; .reg .b16 %h<2>; .reg .b32 %r<9>; .reg .f32 %f<4>; .reg .b64 %rd<4>; .reg .f64 %fd<3>;
	ld.param.u64 %rd1, [one_param_0];
	mov.u32 %r1, {a};
	mov.u32 %r2, {b};
	mov.u32 %r3, {c};
	{code}
	st.global.u32 [%rd1], %r4;
	ret;
}}
"""


def launch(kernel, *arguments, grid=(1, 1, 1), block=(1, 1, 1), **how):
    raw = [struct.pack("<q", a.ctypes.data) if isinstance(a, np.ndarray) else struct.pack("<i", a) for a in arguments]
    memory = HostMemory([(a.ctypes.data, a.nbytes) for a in arguments if isinstance(a, np.ndarray)])
    run = Run(kernel, Launch(grid, block, 0, raw), memory, **how)
    run.execute()
    return run


def aligned(n):
    """n numbers from an address that is a multiple of a sector, and of 16 sectors."""
    room = np.zeros(n + 128, np.float32)
    return room[(-room.ctypes.data % 512) // 4 :][:n]


def compute(code, a=0, b=0, c=0):
    out = np.zeros(1, np.uint32)
    launch(parse(ENTRY.format(code=code, a=a, b=b, c=c))["one"], out)
    return int(out[0])


SIGNED = 1 << 32
INSTRUCTIONS = [  # code that computes %r4 of %r1, %r2, %r3; these; the result
    ("div.s32 %r4, %r1, %r2;", (-7, 2, 0), -3 % SIGNED),
    ("rem.s32 %r4, %r1, %r2;", (-7, 2, 0), -1 % SIGNED),
    ("div.u32 %r4, %r1, %r2;", (-8, 2, 0), (SIGNED - 8) // 2),
    ("mul.hi.u32 %r4, %r1, %r2;", (-1, -1, 0), SIGNED - 2),
    ("mul.hi.s32 %r4, %r1, %r2;", (-1, 5, 0), SIGNED - 1),
    ("mad.lo.s32 %r4, %r1, %r2, %r3;", (-3, 4, 5), -7 % SIGNED),
    ("mul.wide.s32 %rd2, %r1, %r2; shr.s64 %rd3, %rd2, 32; cvt.u32.u64 %r4, %rd3;", (-3, 4, 0), SIGNED - 1),
    ("shr.s32 %r4, %r1, %r2;", (-8, 40, 0), SIGNED - 1),
    ("shr.u32 %r4, %r1, %r2;", (-8, 40, 0), 0),
    ("shl.b32 %r4, %r1, %r2;", (3, 31, 0), 1 << 31),
    ("shf.l.wrap.b32 %r4, %r1, %r2, %r3;", (0x80000000, 1, 33), 3),
    ("shf.r.clamp.b32 %r4, %r1, %r2, %r3;", (0x80000000, 7, 99), 7),
    ("lop3.b32 %r4, %r1, %r2, %r3, 0x96;", (0b1100, 0b1010, 0b1001), 0b1111),
    ("prmt.b32 %r4, %r1, %r2, 0x5410;", (0x11223344, 0xAABBCCDD, 0), 0xCCDD3344),
    ("prmt.b32 %r4, %r1, %r2, 0x888F;", (0x80, 0xFF000000, 0), 0xFFFFFFFF),
    ("bfe.u32 %r4, %r1, 4, 8;", (0xABCD, 0, 0), 0xBC),
    ("bfe.s32 %r4, %r1, 4, 8;", (0xABCD, 0, 0), 0xBC - 256 + SIGNED),
    ("bfi.b32 %r4, %r1, %r2, 4, 8;", (0x5A, 0xFFFF, 0), 0xF5AF),
    ("popc.b32 %r4, %r1;", (0xF0F, 0, 0), 8),
    ("clz.b32 %r4, %r1;", (1, 0, 0), 31),
    ("brev.b32 %r4, %r1;", (1, 0, 0), 1 << 31),
    ("cvt.rn.f32.s32 %f1, %r1; mov.b32 %r4, %f1;", (-2, 0, 0), 0xC0000000),
    ("mov.f32 %f1, 0fC0200000; cvt.rzi.s32.f32 %r4, %f1;", (0, 0, 0), -2 % SIGNED),
    ("mov.f32 %f1, 0fC0200000; cvt.rzi.u32.f32 %r4, %f1;", (0, 0, 0), 0),
    ("mov.f32 %f1, 0f7FC00000; mov.f32 %f2, 0f3F800000; max.f32 %f3, %f1, %f2; mov.b32 %r4, %f3;", (0, 0, 0),
     0x3F800000),
    ("cvt.u16.u32 %h1, %r1; cvt.s32.s16 %r4, %h1;", (0xFFFE, 0, 0), -2 % SIGNED),
    ("setp.lt.s32 %p1, %r1, %r2; selp.b32 %r4, 7, 9, %p1;", (-1, 1, 0), 7),
    ("setp.lt.u32 %p1, %r1, %r2; selp.b32 %r4, 7, 9, %p1;", (-1, 1, 0), 9),
    ("mov.b64 %rd2, {%r1, %r2}; mov.b64 {%r3, %r4}, %rd2;", (5, 6, 0), 6),
    ("mov.u32 %r4, 1; setp.eq.s32 %p1, %r1, 2; @!%p1 mov.u32 %r4, 3;", (2, 0, 0), 1),
]  # fmt: skip


@pytest.mark.parametrize(("code", "operands", "expected"), INSTRUCTIONS, ids=[row[0] for row in INSTRUCTIONS])
def test_instructions_compute_what_ptx_says(code, operands, expected):
    assert compute(code, *operands) == expected


@pytest.mark.parametrize(
    "code",
    [
        "wgmma.fence.sync.aligned;",
        "add.cc.u32 %r4, %r1, %r2;",
        "cvt.f16.f32 %h1, %f1;",
        "call printf;",
        "ld.tensor.u32 %r4, [%rd1];",
        "bar.sync 1;",
    ],
)
def test_what_the_interpreter_does_not_know_is_an_error(code):
    with pytest.raises(PtxError):
        compute(code)


def test_division_by_zero_is_an_error():
    with pytest.raises(PtxError, match="division by zero"):
        compute("div.s32 %r4, %r1, %r2;", 1, 0)


def test_kernels_in_unnamed_namespaces_are_found_by_the_name_of_the_host():
    name = host_name("_ZN3foo45_GLOBAL__N__06a81445_7_cuda_cu_01db68b3_122213barIfEEvNS0_3BazE")
    assert name == "_ZN3foo12_GLOBAL__N_13barIfEEvNS0_3BazE"
    assert plain_name(name) == "bar"


@pytest.fixture(scope="module")
def defects(nvcc, tmp_path_factory):
    target = tmp_path_factory.mktemp("ptx") / "defects.ptx"
    subprocess.run([nvcc, "-std=c++17", "-ptx", "-arch=compute_90", str(DEFECTS), "-o", str(target)], check=True)
    return parse(target.read_text())


def reverse(kernel, **how):
    """x, each warp's part the other way round."""
    x = np.arange(N_BLOCKS * N_THREADS, dtype=np.float32)
    out = np.full_like(x, np.nan)
    launch(kernel, x, out, x.size, grid=(N_BLOCKS, 1, 1), block=(N_THREADS, 1, 1), **how)
    return np.array_equal(out, x.reshape(N_BLOCKS, N_THREADS)[:, ::-1].reshape(-1))


@pytest.mark.parametrize("how", [{}, {"lockstep": False, "seed": 1}], ids=["in step", "warp by warp"])
def test_the_right_kernel_passes(how, defects):
    assert reverse(defects["right"], **how)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("one_too_far", "out of bounds"),
        ("misaligned", "misaligned"),
        ("unwritten_shared", "nobody wrote"),
        ("beyond_shared", "shared memory: .* out of bounds"),
        ("exited_lanes", "takes no part"),
        ("half_a_warp", "never come"),
    ],
)
def test_planted_defects_are_found(kernel, message, defects):
    with pytest.raises(PtxError, match=message):
        reverse(defects[kernel])


@pytest.mark.parametrize(
    ("kernel", "sectors", "least_sectors", "passes"),
    [("columns", 8, 8, 64), ("padded_columns", 8, 8, 2), ("strided", 36, 8, 0)],
)
def test_strided_accesses_and_bank_conflicts_are_counted(kernel, sectors, least_sectors, passes, defects):
    x, out = aligned(256), aligned(32)
    found = launch(defects[kernel], x, out, 32, block=(32, 1, 1)).traffic
    assert (found.sectors, found.least_sectors, found.passes) == (sectors, least_sectors, passes)
    assert (found.global_accesses, found.shared_accesses) == (2, 2 if passes else 0)


@pytest.mark.parametrize(
    ("n_bytes", "step", "passes", "least"),
    [
        (4, 4, 1, 1),  # a word each
        (4, 0, 1, 1),  # one word for all
        (4, 8, 2, 1),  # every other bank
        (4, 128, 32, 1),  # one bank
        (8, 8, 2, 2),  # half of a warp at once
        (8, 16, 4, 2),
        (16, 16, 4, 4),  # a quarter
        (16, 32, 8, 4),
        (1, 1, 1, 1),
    ],
)
def test_passes_over_the_banks_are_those_of_the_words_that_a_warp_reaches(n_bytes, step, passes, least):
    lane = np.arange(64)
    found = Traffic()
    found.add("shared", lane // 32, lane % 32, 512 + step * (lane % 32), n_bytes)
    assert (found.shared_accesses, found.passes, found.least_passes) == (2, 2 * passes, 2 * least)


def test_a_missing_barrier_is_found_when_warps_take_turns(defects):
    with pytest.raises(PtxError, match="nobody wrote"):
        reverse(defects["no_barrier"], lockstep=False)


def test_a_missing_atomic_gives_a_wrong_sum(defects):
    x, out = np.ones(N_THREADS, np.float32), np.zeros(1, np.float32)
    for kernel, is_right in (("sum", True), ("sum_without_atomics", False)):
        out[:] = 0
        launch(defects[kernel], x, out, x.size, block=(N_THREADS, 1, 1))
        assert (out[0] == N_THREADS) == is_right
