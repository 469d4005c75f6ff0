"""Footprint: what the package itself costs, without harness and self-test vectors."""

from dataclasses import dataclass

from edgerl.errors import ToolError
from edgerl.toolchain.build.image import LIBRARY, Binary, Image, Section

_RESERVED = "__"


@dataclass(frozen=True)
class Footprint:
    """Bytes of a package, from its own object files.

    `flash_bytes` = code + weights + tables + other constants + the compiler's run-time library as
    far as the image pulls it in (float arithmetic on a core without FPU). `static_ram_bytes` is
    writable data that the package keeps for itself, which the C contract forbids. `state_bytes` is
    the caller-owned state. `undefined_symbols` are names that the package needs from elsewhere,
    `library_symbols` those of them that the run-time library brings: the routines that a compiler
    calls of itself, whose names the language reserves for it.
    """

    code_bytes: int
    weight_bytes: int
    table_bytes: int
    constant_bytes: int
    library_bytes: int
    static_ram_bytes: int
    state_bytes: int
    undefined_symbols: frozenset[str]
    library_symbols: frozenset[str]

    @property
    def flash_bytes(self) -> int:
        """Everything that lies in flash."""
        constants = self.weight_bytes + self.table_bytes + self.constant_bytes
        return self.code_bytes + constants + self.library_bytes


def footprint(image: Image) -> Footprint:
    """Read the footprint of the package inside `image`.

    Constants are told apart by the start of their names: `NAME_weights`, `NAME_table`, and
    `NAME_golden` (self-test vectors, not counted). Raises ToolError for an image built with
    link-time optimisation, whose objects hold no code yet.
    """
    if not image.objects:
        raise ToolError(f"{image.elf.name}: built with -flto, so it has no footprint of its own")
    code = weights = tables = golden = constants = static = 0
    for part in image.objects:
        for section in part.sections:
            if section.writable:
                static += section.size
            elif section.executable:
                code += section.size
            else:
                weights += _named(part, section, f"{image.name}_weights")
                tables += _named(part, section, f"{image.name}_table")
                golden += _named(part, section, f"{image.name}_golden")
                constants += section.size
    library = {s.index for s in image.binary.sections if s.name == LIBRARY}
    brought = {
        s.name
        for s in image.binary.symbols
        if s.section in library and s.name.startswith(_RESERVED)
    }
    defined = {s.name for part in image.objects for s in part.symbols if not s.undefined}
    needed = frozenset[str]().union(*(part.undefined for part in image.objects))
    return Footprint(
        code_bytes=code,
        weight_bytes=weights,
        table_bytes=tables,
        constant_bytes=constants - weights - tables - golden,
        library_bytes=image.section_sizes.get(LIBRARY, 0),
        static_ram_bytes=static,
        state_bytes=image.state_bytes,
        undefined_symbols=needed - defined,
        library_symbols=(needed - defined) & brought,
    )


def _named(part: Binary, section: Section, start: str) -> int:
    """Bytes of the section's constants whose names begin with `start`; the whole section where
    its own name says so and it holds nothing named (assembly without symbol sizes)."""
    sizes = [
        s.size for s in part.symbols if s.section == section.index and s.name.startswith(start)
    ]
    if not sum(sizes) and section.name.startswith(f".rodata.{start}"):
        return section.size
    return sum(sizes)
