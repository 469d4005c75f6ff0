"""The HIL image: an emitted package linked with start-up code and a test rig.

The rig answers requests over semihosting files, or under Linux over standard input and output,
so one and the same ELF runs in unicorn, in QEMU and, as far as it can, on the board. Start-up
code, rig and linker script are rendered from `templates/`.
"""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgerl.errors import ToolError, UserError
from edgerl.targets.model import Region, Target
from edgerl.toolchain.build.architectures import architecture_of
from edgerl.toolchain.build.compiler import Compiler
from edgerl.toolchain.build.image import Image, flat, read_binary
from edgerl.toolchain.build.rendering import package_sources, publish, render
from edgerl.toolchain.build.stack import read_frames

# What the image must leave free above its static data for stack.
MINIMUM_STACK = 1024
# The linker gets at least this much room, so that what is too big still links and can be
# measured.
_ROOM = 128 << 20
_LINK = ("-Wl,--gc-sections", "-Wl,--build-id=none")
# What surrounds the rig: linker script, further flags for the linker. Linux maps segments by
# pages, on some machines of 64 KiB.
_HOSTING: dict[str, tuple[str, tuple[str, ...]]] = {
    "semihosting": ("edgerl-image.ld", ()),
    "linux": ("edgerl-linux.ld", ("-static", "-Wl,-z,max-page-size=0x10000")),
}
# A table of jumps could be a routine of the compiler's library, which is the package's to count.
_HARNESS_FLAGS = ("-fno-jump-tables",)


def build_firmware(
    package_dir: Path,
    name: str,
    target: Target,
    compiler: Compiler,
    out_dir: Path,
    *,
    build_id: str,
    portable: bool = False,
    flags: Sequence[str] = (),
) -> Image:
    """Compile the package `name` in `package_dir` for `target` and link the HIL image.

    Writes `firmware.elf`, and `firmware.bin` where that is flashed, to `out_dir`, each aside
    first. `build_id` is 64 hexadecimal digits; `portable` builds the portable twin even where
    there is assembly; `flags` follow the compiler's own, for the package alone. With `-flto`
    among them the image knows no objects, so it has no footprint. The same inputs give the same
    bytes in any folder.

    Raises UserError, with the numbers, when the image does not fit the target, ToolError when
    the compiler fails.
    """
    if target.application is None or target.ram is None:
        raise UserError(f"target {target.name} has no memory map; it runs no firmware")
    core = target.core
    script, hosting = _HOSTING[core.hosting]
    link = (f"-Wl,-T,{script}", f"-Wl,-e,{architecture_of(core.architecture).entry}", *hosting)
    sources = package_sources(package_dir, name)
    twin = (f"-D{name.upper()}_PORTABLE",) if portable else ()
    package_flags = (*twin, *flags)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="edgerl-build-") as scratch:
            work = Path(scratch)
            for source in sources:
                shutil.copyfile(source, work / source.name)
            harness = _render(work, name, target, target.application, target.ram, build_id)
            compiled = [source.name for source in sources if source.suffix != ".h"]
            ours = compiler.compile_all(compiled, cwd=work, flags=package_flags)
            theirs = compiler.compile_all(harness, cwd=work, flags=_HARNESS_FLAGS)
            lto = tuple(flag for flag in flags if flag.startswith("-flto"))
            compiler.link([*ours, *theirs], "firmware.elf", cwd=work, flags=(*link, *_LINK, *lto))
            binary = read_binary(work / "firmware.elf")
            flashed = core.hosting != "linux"
            if flashed:
                (work / "firmware.bin").write_bytes(flat(binary))
            image = Image(
                name=name,
                elf=out_dir / "firmware.elf",
                bin=out_dir / "firmware.bin",
                family=compiler.name,
                compiler=compiler.version,
                flags=(*compiler.core_flags, *compiler.flags, *package_flags),
                architecture=core.architecture,
                binary=binary,
                objects=() if lto else tuple(read_binary(work / each) for each in ours),
                frames=read_frames(work),
            )
            _require_fit(image, target)
            for made in (image.elf, *([image.bin] if flashed else [])):
                publish(work / made.name, made)
    except OSError as error:
        raise ToolError(f"build of {name} for {target.name}: {error.strerror}") from error
    return image


def _render(
    work: Path, name: str, target: Target, flash: Region, ram: Region, build_id: str
) -> list[str]:
    """Write the harness into `work`; return the names of its sources. They have hyphens, which
    no package's files have."""
    digits = bytes.fromhex(build_id)
    if len(digits) != 32:
        raise ValueError(f"build_id has {len(digits)} bytes; it must be 32")
    values = {
        "name": name,
        "NAME": name.upper(),
        "fpu": target.core.fpu,
        "mve": target.core.mve,
        "build_id": list(digits),
        "flash_base": flash.base,
        "flash_room": max(flash.size, _ROOM),
        "ram_base": ram.base,
        "ram_room": max(ram.size, _ROOM),
        "stack_top": (ram.base + ram.size) & ~15,
    }
    core = target.core
    startup, surroundings = f"edgerl-startup-{core.architecture}.S", f"edgerl-{core.hosting}.c"
    sources = [startup, surroundings, "edgerl-rig.c", "edgerl-batch.c"]
    script, _ = _HOSTING[core.hosting]
    render(work, [*sources, "edgerl-batch.h", "edgerl-system.h", script], values)
    return sources


def _require_fit(image: Image, target: Target) -> None:
    """UserError, with the numbers, when the image overflows the target's memories."""
    assert target.application is not None and target.ram is not None
    stored = sum(len(s.data) for s in image.binary.segments)
    _compare(image, target, stored, target.application.size, "flash")
    static = image.address("edgerl_rig_bss_end") - target.ram.base
    _compare(image, target, static + MINIMUM_STACK, target.ram.size, "RAM")


def require_stack(image: Image, target: Target, stack_bytes: int) -> None:
    """UserError, with the numbers, when `stack_bytes` of stack beside the image's static data
    overflow the target's RAM."""
    assert target.ram is not None
    static = image.address("edgerl_rig_bss_end") - target.ram.base
    _compare(image, target, static + max(stack_bytes, MINIMUM_STACK), target.ram.size, "RAM")


def _compare(image: Image, target: Target, need: int, has: int, memory: str) -> None:
    if need > has:
        raise UserError(
            f"{image.name} needs {need:,} B of {memory}, {target.name} has {has:,} B; "
            "choose a larger target or a smaller format"
        )
