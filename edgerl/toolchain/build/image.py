"""What a build produced, read back from its ELF files."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from edgerl.errors import ToolError

# The section where the linker script gathers what comes from the compiler's library.
LIBRARY = ".library"
_ALLOC, _WRITE, _EXECUTE = 0x2, 0x1, 0x4
_KINDS: dict[str, Literal["function", "object"]] = {
    "STT_FUNC": "function",
    "STT_OBJECT": "object",
}


@dataclass(frozen=True)
class Section:
    """A section that occupies memory on the target. `loaded` is False for zero-filled ones."""

    name: str
    index: int
    address: int
    size: int
    executable: bool
    writable: bool
    loaded: bool


@dataclass(frozen=True)
class Symbol:
    """A named address, without Arm's Thumb bit. `section` is an index, None for an absolute or
    undefined symbol; `kind` is empty for plain labels."""

    name: str
    address: int
    size: int
    kind: Literal["function", "object", ""]
    section: int | None
    undefined: bool
    exported: bool


@dataclass(frozen=True)
class Segment:
    """Bytes to be put at `load` (in flash); the start-up code moves them where they run."""

    load: int
    data: bytes


@dataclass(frozen=True)
class Binary:
    """An object file or a linked image: what it puts into memory, under which names.

    `data_marks` are the sorted addresses at which Thumb code and data alternate in
    executable sections: (section index, address, is data).
    """

    name: str
    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]
    segments: tuple[Segment, ...]
    data_marks: tuple[tuple[int, int, bool], ...]
    entry: int

    @property
    def undefined(self) -> frozenset[str]:
        """Names that somebody else has to provide."""
        return frozenset(s.name for s in self.symbols if s.undefined)


@dataclass(frozen=True)
class Image:
    """A linked HIL image and what was known while building it.

    `name` is the policy's; `family` is the compiler's short name and `compiler` names its
    version; `objects` are the package's own object files, without the harness
    (none after link-time optimisation);
    `frames` maps each compiled C function to its stack frame in bytes, as the compiler states
    it. `flags` are the compile flags, core flags included; `architecture` is that of the core.
    """

    name: str
    elf: Path
    bin: Path
    family: str
    compiler: str
    flags: tuple[str, ...]
    architecture: str = field(default="arm", kw_only=True)
    binary: Binary = field(repr=False)
    objects: tuple[Binary, ...] = field(repr=False)
    frames: Mapping[str, int] = field(repr=False)

    @cached_property
    def symbols(self) -> dict[str, Symbol]:
        """Defined symbols by name; an exported one wins over a local one of the same name."""
        ordered = sorted(self.binary.symbols, key=lambda s: s.exported)
        return {s.name: s for s in ordered if not s.undefined}

    @cached_property
    def section_sizes(self) -> dict[str, int]:
        """Bytes of each section in memory, by name."""
        return {s.name: s.size for s in self.binary.sections}

    @property
    def state_bytes(self) -> int:
        """Size of the controller's state."""
        return self.symbol("edgerl_rig_state").size

    @property
    def signal_sizes(self) -> tuple[int, int]:
        """Elements of the observation and of the action, as the rig declares them."""
        status_and_action = self.symbol("edgerl_rig_reply").size
        return self.symbol("edgerl_rig_observation").size // 4, status_and_action // 4 - 1

    def symbol(self, name: str) -> Symbol:
        """The symbol called `name`; ToolError when the image has none."""
        try:
            return self.symbols[name]
        except KeyError:
            raise ToolError(f"{self.elf.name}: no symbol {name}") from None

    def address(self, name: str) -> int:
        """Address of a symbol without the Thumb bit; ToolError when the image has none."""
        return self.symbol(name).address

    @cached_property
    def functions(self) -> tuple[Symbol, ...]:
        """All functions by ascending address."""
        found = {s.address: s for s in self.symbols.values() if s.kind == "function"}
        return tuple(found[a] for a in sorted(found))

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes of flash at `address`; ToolError when the image has none there."""
        for s in self.binary.segments:
            if s.load <= address and address + size <= s.load + len(s.data):
                return s.data[address - s.load : address - s.load + size]
        raise ToolError(f"{self.elf.name}: nothing at {address:#010x}")

    def place(self, address: int) -> str:
        """`address` as people read it: the function it lies in or follows, and the offset."""
        starts = [s.address for s in self.functions]
        at = bisect_right(starts, address) - 1
        inside = at >= 0 and any(
            s.address <= address < s.address + s.size for s in self.binary.sections
        )
        if not inside:
            return "outside the image"
        symbol = self.functions[at]
        return f"{symbol.name}+{address - symbol.address:#x}"


def read_binary(path: Path) -> Binary:
    """Read an ELF file. Raises ToolError when it is none."""
    try:
        with path.open("rb") as stream:
            return _parse(path.name, ELFFile(stream))
    except (OSError, ELFError) as error:
        raise ToolError(f"{path.name}: not a readable ELF file ({error})") from error


def _parse(name: str, elf: ELFFile) -> Binary:
    sections = tuple(
        Section(
            name=s.name,
            index=i,
            address=s["sh_addr"],
            size=s["sh_size"],
            executable=bool(s["sh_flags"] & _EXECUTE),
            writable=bool(s["sh_flags"] & _WRITE),
            loaded=s["sh_type"] != "SHT_NOBITS",
        )
        for i, s in enumerate(elf.iter_sections())
        # Unwind tables say only "cannot unwind"; the link drops them.
        if s["sh_flags"] & _ALLOC and s["sh_size"] and s["sh_type"] != "SHT_ARM_EXIDX"
    )
    table = elf.get_section_by_name(".symtab")
    if not isinstance(table, SymbolTableSection):
        raise ToolError(f"{name}: has no symbols")
    symbols, marks = [], []
    thumb = int(elf["e_machine"] == "EM_ARM")
    for s in table.iter_symbols():
        kind = s["st_info"]["type"]
        at = s["st_shndx"]
        section = at if isinstance(at, int) else None
        mark = s.name[:2]
        if mark in ("$t", "$d", "$a", "$x") and section is not None:
            marks.append((section, s["st_value"], mark == "$d"))
        elif s.name and kind not in ("STT_FILE", "STT_SECTION") and not s.name.startswith("$"):
            function = kind == "STT_FUNC"
            symbols.append(
                Symbol(
                    name=s.name,
                    address=s["st_value"] & ~thumb if function else s["st_value"],
                    size=s["st_size"],
                    kind=_KINDS.get(kind, ""),
                    section=section,
                    undefined=at == "SHN_UNDEF",
                    exported=s["st_info"]["bind"] != "STB_LOCAL",
                )
            )
    segments = tuple(
        Segment(segment["p_paddr"], segment.data())
        for segment in elf.iter_segments()
        if segment["p_type"] == "PT_LOAD" and segment["p_filesz"]
    )
    return Binary(name, sections, tuple(symbols), segments, tuple(sorted(marks)), elf["e_entry"])


def flat(binary: Binary) -> bytes:
    """The segments as one block of flash, from the lowest load address, gaps filled with the
    value of erased flash."""
    start = min(s.load for s in binary.segments)
    end = max(s.load + len(s.data) for s in binary.segments)
    image = bytearray(b"\xff" * (end - start))
    for s in binary.segments:
        image[s.load - start : s.load - start + len(s.data)] = s.data
    return bytes(image)
