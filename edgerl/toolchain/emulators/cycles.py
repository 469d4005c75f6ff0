"""Published timing tables: what an instruction costs, from its mnemonic and registers.

A model, never a measurement: no wait states, no pairing of loads, every branch taken. The
tables are keyed by a core's `cycles` row; a core without one has no model.
"""

import re
from dataclasses import dataclass

from edgerl.toolchain.build.disassembly import Instruction


@dataclass(frozen=True)
class Cost:
    """Cycles of the instructions whose mnemonic matches: `base`, plus 1 for each 32-bit
    register in the list where `per_register`, plus `into_pc` when it loads the pc."""

    pattern: re.Pattern[str]
    base: int
    per_register: bool = False
    into_pc: int = 0


def _cost(pattern: str, base: int, *, per_register: bool = False, into_pc: int = 0) -> Cost:
    return Cost(re.compile(pattern), base, per_register, into_pc)


# The first match counts.
TABLES: dict[str, tuple[Cost, ...]] = {
    # Arm Cortex-M4 Technical Reference Manual, instruction set summary; branches and loads at
    # their upper bound.
    "cortex-m4": (
        _cost(r"v(ldm|stm|push|pop)", 1, per_register=True),
        _cost(r"v(ldr|str)", 2),
        _cost(r"v(fma|fms|fnm|mla|mls|nml)", 3),
        _cost(r"v(div|sqrt)", 14),
        _cost(r"v", 1),
        _cost(r"(ldm|stm|push|pop)", 1, per_register=True, into_pc=2),
        _cost(r"(ldrd|strd)", 3),
        _cost(r"ldr", 2, into_pc=2),
        _cost(r"str", 1),
        _cost(r"[su]div", 8),
        _cost(r"cbn?z", 2),
        _cost(r"(b|bl|bx|blx)$", 3),
        _cost(r"tb[bh]", 3),
    ),
}

_LOADS_PC = re.compile(r"^pc,|\{.*\bpc\b.*\}")


def cycles(table: str, instruction: Instruction) -> int:
    """Modelled cycles of one instruction. Raises KeyError for an unknown table."""
    for cost in TABLES[table]:
        if cost.pattern.match(instruction.mnemonic):
            registers = _registers(instruction.operands) if cost.per_register else 0
            into_pc = cost.into_pc if _LOADS_PC.search(instruction.operands) else 0
            return cost.base + registers + into_pc
    return 1


def _registers(operands: str) -> int:
    """32-bit registers in the list of a multiple load or store."""
    listed = operands[operands.find("{") + 1 : operands.find("}")].split(",")
    return sum(2 if name.strip().startswith("d") else 1 for name in listed)
