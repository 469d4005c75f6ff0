"""What Armv8.1-M added to Thumb, which capstone does not know or takes for something else: loops,
conditional selects, long shifts, and vectors (MVE).

Encodings are those of the Armv8-M Architecture Reference Manual (DDI 0553), part C2. As much is
read as the call graph needs, which is where a loop goes on and what moves the stack pointer;
for the rest `operands` holds the code itself.
"""

from dataclasses import dataclass

from edgerl.toolchain.build.instruction import Instruction

_SIZE = 4
# Loads and stores; data processing of coprocessors, of which those numbered 8, 9, 14 and 15 are
# MVE; and what on larger Arm cores is Neon.
_TRANSFERS, _COPROCESSORS, _NEON = (0xEC, 0xED, 0xFC, 0xFD), (0xEE, 0xFE), (0xEF, 0xFF)
_OF_VECTORS = (8, 9, 14, 15)
_SP = 13


@dataclass(frozen=True)
class _Loop:
    """An instruction of loops: both halfwords' fixed bits, and which way it branches if at all."""

    mnemonic: str
    first: tuple[int, int]
    second: tuple[int, int]
    direction: int = 0


# The first match counts.
_BRANCH, _OTHER = 0xF001, 0xFFFF
_LOOPS = (
    _Loop("le", (0xFFDF, 0xF00F), (_BRANCH, 0xC001), -1),
    _Loop("letp", (0xFFFF, 0xF01F), (_BRANCH, 0xC001), -1),
    _Loop("wls", (0xFFF0, 0xF040), (_BRANCH, 0xC001), 1),
    _Loop("wlstp", (0xFFC0, 0xF000), (_BRANCH, 0xC001), 1),
    _Loop("dls", (0xFFF0, 0xF040), (_OTHER, 0xE001)),
    _Loop("lctp", (0xFFFF, 0xF00F), (_OTHER, 0xE001)),
    _Loop("dlstp", (0xFFC0, 0xF000), (_OTHER, 0xE001)),
    _Loop("vctp", (0xFFC0, 0xF000), (_OTHER, 0xE801)),
)


def read(code: bytes, address: int) -> Instruction | None:
    """The instruction of Armv8.1-M's that `code` is; None when it is none."""
    if len(code) < _SIZE:
        return None
    first, second = (int.from_bytes(code[k : k + 2], "little") for k in (0, 2))
    for loop in _LOOPS:
        if _fits(first, loop.first) and _fits(second, loop.second):
            return _loop(loop, second, address)
    mnemonic = _other(first, second)
    if mnemonic is None:
        return None
    moves = mnemonic == "mve" and first >> 8 in _TRANSFERS and _moves_stack(first)
    operands = f"{first:04x} {second:04x}{', sp!' if moves else ''}"
    return _instruction(address, mnemonic, operands, None)


def _fits(halfword: int, bits: tuple[int, int]) -> bool:
    mask, value = bits
    return halfword & mask == value


def _loop(loop: _Loop, second: int, address: int) -> Instruction:
    distance = (second >> 1 & 0x3FF) << 2 | (second >> 11 & 1) << 1
    target = address + _SIZE + loop.direction * distance if loop.direction else None
    return _instruction(address, loop.mnemonic, "lr" if target is None else f"{target:#x}", target)


def _instruction(address: int, mnemonic: str, operands: str, target: int | None) -> Instruction:
    return Instruction(
        address=address,
        size=_SIZE,
        mnemonic=mnemonic,
        operands=operands,
        conditional=target is not None,
        target=target,
    )


def _other(first: int, second: int) -> str | None:
    """What it is beside a loop's: "mve", "csel", "long_shift"."""
    high, coprocessor = first >> 8, second >> 8 & 0xF
    if high in _NEON:
        return "mve"
    if high in (*_TRANSFERS, *_COPROCESSORS):
        predicate = first & 0xFFEE == 0xEEEC and second & 0xFFF == 0xA10
        return "mve" if predicate or coprocessor in _OF_VECTORS else None
    if first & 0xFFF0 == 0xEA50:  # OR of registers, of which 13 and 15 may be none
        if second & 0x8000:
            return "csel"
        return "long_shift" if second & 0xD == 0xD else None
    return None


def _moves_stack(first: int) -> bool:
    """Whether a transfer writes back to the stack pointer."""
    before, back = first >> 8 & 1, first >> 5 & 1
    return first & 0xF == _SP and bool(back or not before)
