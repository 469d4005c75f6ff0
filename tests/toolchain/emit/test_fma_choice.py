"""The form that the timing table prefers is the one that costs fewer modelled cycles."""

from pathlib import Path

import numpy as np
import pytest
from one_build import ASSEMBLY, BOARD, on_core, package
from random_programs import feedforward, recurrent

from edgerl.targets import target
from edgerl.toolchain import ir
from edgerl.toolchain.compiling import choose_fused
from edgerl.toolchain.emulators import count, cycles

PROGRAMS = {
    "dense": feedforward((9, 16, 3), "tanh"),
    "cells": recurrent(("gru", "lstm"), 5, 8),
}


@pytest.mark.parametrize("assembly", [ASSEMBLY, ""], ids=["assembly", "portable"])
def test_the_choice_agrees_with_the_count(assembly: str, tmp_path: Path) -> None:
    def modelled(program: ir.Program, name: str) -> int:
        observations = np.ones((2, program.size(program.observation)), np.float32)
        counted = count(image.core(name), observations).cycles_model
        assert counted is not None
        return counted

    forms = [(name, fused) for name in PROGRAMS for fused in (True, False)]
    made = [
        package(PROGRAMS[name], f"{name}_{fused}", fused=fused, assembly=assembly)
        for name, fused in forms
    ]
    image = on_core(made, tmp_path)
    for name, program in PROGRAMS.items():
        fused, unfused = (modelled(program, f"{name}_{form}") for form in (True, False))
        assert choose_fused(BOARD) == (fused <= unfused)


def test_a_cheaper_fused_instruction_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not choose_fused(BOARD)
    rows = tuple(c for c in cycles.TABLES["cortex-m4"] if "fma" not in c.pattern.pattern)
    monkeypatch.setitem(cycles.TABLES, "cortex-m4", rows)
    assert choose_fused(BOARD)


def test_without_a_table_the_shorter_program_is_taken() -> None:
    assert choose_fused(target("cortex-m7"))
    assert not choose_fused(target("host"))
