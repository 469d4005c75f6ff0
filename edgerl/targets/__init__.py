"""Cores and boards as data rows, and users' own boards from files."""

from edgerl.targets.board_file import find_target, is_board_file, load_board
from edgerl.targets.model import Core, Region, Target, target, targets

__all__ = [
    "Core",
    "Region",
    "Target",
    "find_target",
    "is_board_file",
    "load_board",
    "target",
    "targets",
]
