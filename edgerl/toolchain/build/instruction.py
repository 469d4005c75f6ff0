"""Instruction: what the toolchain asks of one, whatever the core."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Instruction:
    """One instruction as it reads. `mnemonic` has no condition and no width suffix, `target`
    is the address of a direct branch. It `calls` where it leaves a return address behind, and is
    `indirect` where a register or memory says where it goes, unless that is a return."""

    address: int
    size: int
    mnemonic: str
    operands: str
    conditional: bool
    target: int | None
    calls: bool = False
    indirect: bool = False
