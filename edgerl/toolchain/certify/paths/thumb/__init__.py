"""Thumb-1 and Thumb-2: what each instruction does to what is known.

Core registers, the four condition flags and the stack are followed; float registers are data.
An instruction that is in none of the tables below is not modelled, and a walk ends there.
"""

from typing import Any

from edgerl.toolchain.certify.paths.machine import Machine
from edgerl.toolchain.certify.paths.model import Action, Model, Step
from edgerl.toolchain.certify.paths.thumb.arithmetic import computed, opaque
from edgerl.toolchain.certify.paths.thumb.branches import BRANCHES
from edgerl.toolchain.certify.paths.thumb.flags import CONDITIONS, forget_flags
from edgerl.toolchain.certify.paths.thumb.memory import (
    LOADS,
    STORES,
    float_memory,
    floats,
    memory,
    of_floats,
    several,
)
from edgerl.toolchain.certify.paths.thumb.registers import LR, SP
from edgerl.toolchain.certify.paths.values import MASK

# What capstone has a name of its own for.
_ALIASES = {"movs": "mov", "subs": "sub"}
# Results that nobody has yet used to decide a way: the first register is written, or two.
_OPAQUE = {
    "clz", "rev", "rev16", "revsh", "rbit", "sdiv", "udiv", "ssat", "usat", "ssat16",
    "usat16", "qadd", "qsub", "qdadd", "qdsub", "qadd16", "qsub16", "qadd8", "qsub8", "sadd16",
    "ssub16", "sadd8", "ssub8", "uadd16", "usub16", "uadd8", "usub8", "shadd16", "shsub16", "sasx",
    "ssax", "qasx", "qsax", "uhadd16", "uhadd8", "pkhbt", "pkhtb", "sxtb16", "uxtb16", "sxtab",
    "sxtah", "sxtab16", "uxtab", "uxtah", "uxtab16", "smulbb", "smulbt", "smultb", "smultt",
    "smlabb", "smlabt", "smlatb", "smlatt", "smulwb", "smulwt", "smlawb", "smlawt", "smuad",
    "smuadx", "smusd", "smusdx", "smlad", "smladx", "smlsd", "smlsdx", "smmul", "smmulr", "smmla",
    "smmlar", "smmls", "smmlsr", "usad8", "usada8", "sel", "mrs", "rrx",
}  # fmt: skip
_OPAQUE_PAIRS = {
    "smull", "umull", "smlal", "umlal", "umaal", "smlald", "smlaldx", "smlsld", "smlsldx",
    "smlalbb", "smlalbt", "smlaltb", "smlaltt",
}  # fmt: skip
_NOTHING = {"nop", "it", "dmb", "dsb", "isb", "pld", "hint"}
_LIST_OF_FLOATS = ("vldm", "vstm", "vpush", "vpop", "fldm", "fstm")


def _step(raw: Any) -> Step:
    name = _ALIASES.get(raw.insn_name(), raw.insn_name())
    text = f"{raw.mnemonic} {raw.op_str}".strip()
    conditional = 1 <= raw.cc <= 14 and name != "it"
    act = _act(raw, name)
    if name == "b" and conditional:
        target = raw.operands[-1].imm & MASK
        holds = CONDITIONS[raw.cc]
        return Step(raw.size, text, lambda m: m.branch(holds(m), target), decides=True)
    if conditional:
        holds = CONDITIONS[raw.cc]
        goes = _goes(raw)
        return Step(raw.size, text, lambda m: m.maybe(act, holds(m)), decides=goes)
    return Step(raw.size, text, act, decides=name in ("cbz", "cbnz", "tbb", "tbh"))


def _goes(raw: Any) -> bool:
    """Whether it may write the program counter."""
    return raw.insn_name() in ("b", "bl", "bx", "blx") or "pc" in raw.op_str


def _act(raw: Any, name: str) -> Action:
    """What an instruction does when it is executed."""
    if name in _NOTHING:
        return _nothing
    if name in BRANCHES:
        return BRANCHES[name](raw)
    if name in LOADS or name in STORES or name in ("ldrd", "strd"):
        return memory(raw, name)
    if name in ("push", "pop", "ldm", "ldmdb", "stm", "stmdb"):
        return several(raw, name)
    if name in ("vldr", "vstr"):
        return float_memory(raw, name)
    if name.startswith(_LIST_OF_FLOATS) or raw.mnemonic.startswith(_LIST_OF_FLOATS):
        return floats(raw)
    if raw.mnemonic.startswith("v"):
        return of_floats(raw)
    if name == "msr":
        return forget_flags
    if name in _OPAQUE or name in _OPAQUE_PAIRS:
        return opaque(raw, 2 if name in _OPAQUE_PAIRS else 1)
    return computed(raw, name)


def _nothing(_machine: Machine) -> None:
    """What changes nothing that is followed."""


MODEL = Model(registers=16, stack=SP, link=LR, arguments=(0, 1, 2), step=_step)
