"""What the instructions without side effects compute: dtypes of the operands, and a function of numpy arrays.

`.ftz` is ignored, `.approx` is computed as well as numpy can.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from program import DTYPES, PtxError

# result, operands, function
Meaning = tuple[np.dtype, list[np.dtype], Callable[..., np.ndarray]]
U32, BOOL = DTYPES["u32"], DTYPES["pred"]
WIDER = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}
COMPARE = {
    "eq": np.equal, "ne": lambda x, y: (x < y) | (x > y), "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
    "equ": lambda x, y: ~((x < y) | (x > y)), "neu": np.not_equal, "ltu": lambda x, y: ~(x >= y),
    "leu": lambda x, y: ~(x > y), "gtu": lambda x, y: ~(x <= y), "geu": lambda x, y: ~(x < y),
    "num": lambda x, y: ~(np.isnan(x) | np.isnan(y)), "nan": lambda x, y: np.isnan(x) | np.isnan(y),
}  # fmt: skip
LOGIC = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}
ROUND_TO_INTEGER = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def _is_float(t: str) -> bool:
    return t[0] == "f"


def to_float(value: np.ndarray, op: list[str], dtype: np.dtype) -> np.ndarray:
    """Rounds as the modifiers of `op` say, and saturates."""
    result = value.astype(dtype)
    if dtype == DTYPES["f32"] and value.dtype == DTYPES["f64"]:
        above, below = result > value, result < value
        if "rm" in op or "rz" in op:
            down = above & (value > 0) if "rz" in op else above
            result = np.where(down, np.nextafter(result, dtype.type(-np.inf)), result)
        if "rp" in op or "rz" in op:
            up = below & (value < 0) if "rz" in op else below
            result = np.where(up, np.nextafter(result, dtype.type(np.inf)), result)
    elif {"rm", "rp", "rz"} & set(op):
        raise PtxError("rounding mode not supported")
    if "sat" in op:
        result = np.where(np.isnan(result), 0, np.clip(result, 0, 1)).astype(dtype)
    return result


def _float_sum(op: list[str], t: str) -> Meaning:  # add, sub, mul, fma, mad
    dtype = DTYPES[t]
    exact = {"add": lambda x, y: x + y, "sub": lambda x, y: x - y, "mul": lambda x, y: x * y}.get(
        op[0], lambda x, y, z: x * y + z
    )
    plain = not {"rm", "rp", "rz", "sat"} & set(op)
    n = 3 if op[0] in ("fma", "mad") else 2
    if t == "f64" or (plain and n == 2):  # a double's fma is rounded twice here
        return dtype, [dtype] * n, lambda *args: to_float(exact(*args), op, dtype)
    return dtype, [dtype] * n, lambda *args: to_float(exact(*(a.astype("f8") for a in args)), op, dtype)


def _product(op: list[str], t: str) -> Meaning:  # mul, mad of integers
    if _is_float(t):
        return _float_sum(op, t)
    dtype, bits = DTYPES[t], 8 * DTYPES[t].itemsize
    result = DTYPES[WIDER[t]] if "wide" in op else dtype

    def product(x, y):
        if "hi" in op:
            full = x.astype(object) * y.astype(object) >> bits
            return (full & ((1 << bits) - 1)).astype(f"u{dtype.itemsize}").view(dtype)
        return x.astype(result) * y.astype(result)

    if op[0] == "mul":
        return result, [dtype] * 2, product
    return result, [dtype, dtype, result], lambda x, y, z: product(x, y) + z


def _quotient(op: list[str], t: str) -> Meaning:  # div, rem
    dtype = DTYPES[t]
    if _is_float(t):
        return dtype, [dtype] * 2, lambda x, y: to_float(x / y, op, dtype)

    def divide(x, y):
        if (y == 0).any():
            raise PtxError("integer division by zero")
        quotient = x // y
        quotient = quotient + ((quotient < 0) & (quotient * y != x)).astype(dtype)  # towards zero
        return quotient if op[0] == "div" else x - quotient * y

    return dtype, [dtype] * 2, divide


def _sum(op: list[str], t: str) -> Meaning:
    if "cc" in op or ("sat" in op and not _is_float(t)):
        raise PtxError("carry and saturation of integers are not supported")
    if _is_float(t):
        return _float_sum(op, t)
    return DTYPES[t], [DTYPES[t]] * 2, np.add if op[0] == "add" else np.subtract


def _extreme(op: list[str], t: str) -> Meaning:
    if _is_float(t) and "NaN" not in op:
        function = np.fmin if op[0] == "min" else np.fmax
    else:
        function = np.minimum if op[0] == "min" else np.maximum
    return DTYPES[t], [DTYPES[t]] * 2, function


def _shift(op: list[str], t: str) -> Meaning:
    dtype, bits = DTYPES[t], 8 * DTYPES[t].itemsize

    def shift(x, n):
        moved = (np.left_shift if op[0] == "shl" else np.right_shift)(x, np.minimum(n, bits - 1).astype(dtype))
        return moved if t[0] == "s" else np.where(n < bits, moved, dtype.type(0))

    return dtype, [dtype, U32], shift


def _funnel(op: list[str], t: str) -> Meaning:  # shf: 32 bits of a shifted pair
    def shift(low, high, n):
        pair = low.astype("u8") | high.astype("u8") << np.uint64(32)
        n = (n & 31 if "wrap" in op else np.minimum(n, 32)).astype("u8")
        return (pair << n >> np.uint64(32) if "l" in op else pair >> n).astype("u4")

    return U32, [U32] * 3, shift


def _convert(op: list[str], t: str) -> Meaning:
    if len(op) < 3 or op[-2] not in DTYPES:
        raise PtxError("conversion not supported")
    to, dtype = op[-2], DTYPES[op[-2]]
    integral = next((f for name, f in ROUND_TO_INTEGER.items() if name in op), None)
    if not _is_float(t) and _is_float(to):
        return dtype, [DTYPES[t]], lambda x: to_float(x.astype("f8") if to == "f64" else x, op, dtype)
    if not _is_float(t):
        if "sat" in op:
            raise PtxError("saturation of integers is not supported")
        return dtype, [DTYPES[t]], lambda x: x.astype(dtype)
    if _is_float(to):
        return dtype, [DTYPES[t]], lambda x: to_float(integral(x) if integral else x, op, dtype)
    low, high = float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
    high = np.nextafter(high, 0) if dtype.itemsize == 8 else high
    return dtype, [DTYPES[t]], lambda x: np.nan_to_num(np.clip(integral(x.astype("f8")), low, high)).astype(dtype)


def _compare(op: list[str], t: str) -> Meaning:
    holds, dtype = COMPARE[op[1]], DTYPES[t]
    if op[1] in ("ne", "equ") and not _is_float(t):
        holds = np.not_equal if op[1] == "ne" else np.equal
    combine = LOGIC.get(op[2])
    if combine is None:
        return BOOL, [dtype] * 2, holds
    return BOOL, [dtype, dtype, BOOL], lambda x, y, before: combine(holds(x, y), before)


def _bit_field(op: list[str], t: str) -> Meaning:  # bfe
    if t == "s64":
        raise PtxError("instruction not supported")

    def extract(x, position, length):
        position, length = np.minimum(position & 255, 63), np.minimum(length & 255, 63)
        if t == "s32":
            up = (64 - length).astype("i8")
            shifted = x.astype("i8") >> position.astype("i8")
            return np.where(length == 0, 0, shifted << up % 64 >> up % 64).astype("i4")
        mask = (np.uint64(1) << length.astype("u8")) - np.uint64(1)
        return (x.astype("u8") >> position.astype("u8") & mask).astype(DTYPES[t])

    return DTYPES[t], [DTYPES[t], U32, U32], extract


def _insert(op: list[str], t: str) -> Meaning:  # bfi
    def insert(x, into, position, length):
        position, length = np.minimum(position & 255, 63).astype("u8"), np.minimum(length & 255, 63).astype("u8")
        mask = ((np.uint64(1) << length) - np.uint64(1)) << position
        return (into.astype("u8") & ~mask | x.astype("u8") << position & mask).astype(DTYPES[t])

    return DTYPES[t], [DTYPES[t], DTYPES[t], U32, U32], insert


def _permute(op: list[str], t: str) -> Meaning:  # prmt: any four of eight bytes
    if len(op) > 2:
        raise PtxError("mode of prmt not supported")

    def permute(x, y, selector):
        pair, result = x.astype("u8") | y.astype("u8") << np.uint64(32), np.uint64(0)
        for i in range(4):
            which = (selector >> np.uint32(4 * i) & 15).astype("u8")
            byte = pair >> (which & np.uint64(7)) * np.uint64(8) & np.uint64(255)
            byte = np.where(which > 7, (byte >> np.uint64(7)) * np.uint64(255), byte)
            result = result | byte << np.uint64(8 * i)
        return result.astype("u4")

    return U32, [U32] * 3, permute


def _any_logic(op: list[str], t: str) -> Meaning:  # lop3: bit (a, b, c) of the table, which is the same in all lanes
    def combine(a, b, c, table):
        result = np.zeros(np.broadcast_shapes(a.shape, b.shape, c.shape), "u4")
        for i in range(8):
            if int(table[0]) >> i & 1:
                result |= (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
        return result

    return U32, [U32] * 4, combine


def _unary(op: list[str], t: str) -> Meaning:
    dtype, bits = DTYPES[t], 8 * DTYPES[t].itemsize
    one = dtype.type(1)
    function = {
        "not": np.logical_not if t == "pred" else np.invert,
        "neg": np.negative,
        "abs": np.abs,
        "sqrt": np.sqrt,
        "rsqrt": lambda x: one / np.sqrt(x),
        "rcp": lambda x: one / x,
        "ex2": np.exp2,
        "lg2": np.log2,
        "sin": np.sin,
        "cos": np.cos,
        "tanh": np.tanh,
        "brev": lambda x: np.array([int(f"{int(i):0{bits}b}"[::-1], 2) for i in x], dtype),
        "popc": lambda x: np.array([int(i).bit_count() for i in x], U32),
        "clz": lambda x: np.array([bits - int(i).bit_length() for i in x], U32),
    }[op[0]]
    return U32 if op[0] in ("popc", "clz") else dtype, [dtype], function


def _bitwise(op: list[str], t: str) -> Meaning:
    return DTYPES[t], [DTYPES[t]] * 2, LOGIC[op[0]]


def _select(op: list[str], t: str) -> Meaning:
    return DTYPES[t], [DTYPES[t], DTYPES[t], BOOL], lambda x, y, p: np.where(p, x, y)


def _copy_sign(op: list[str], t: str) -> Meaning:
    return DTYPES[t], [DTYPES[t]] * 2, lambda x, y: np.copysign(y, x)


_FAMILIES = {
    _sum: "add sub", _product: "mul mad", _float_sum: "fma", _quotient: "div rem", _extreme: "min max",
    _bitwise: "and or xor", _shift: "shl shr", _funnel: "shf", _convert: "cvt", _compare: "setp",
    _select: "selp", _bit_field: "bfe", _insert: "bfi", _permute: "prmt", _any_logic: "lop3",
    _copy_sign: "copysign",
    _unary: "not neg abs sqrt rsqrt rcp ex2 lg2 sin cos tanh brev popc clz",
}  # fmt: skip
MEANINGS = {name: family for family, names in _FAMILIES.items() for name in names.split()}
