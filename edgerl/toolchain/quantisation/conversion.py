"""Conversion: a float Program and its calibration to a FixedProgram.

What is chosen of several ways to quantise is chosen by the action's error (`selection.py`).
"""

from collections.abc import Mapping

from edgerl.errors import UserError
from edgerl.policies.spec import PolicySpec
from edgerl.toolchain.ir import (
    Program,
    writes,
)
from edgerl.toolchain.quantisation import fitting, octets, words
from edgerl.toolchain.quantisation.calibration import Recordings, extents
from edgerl.toolchain.quantisation.construction import Construction
from edgerl.toolchain.quantisation.formats import NumberFormat, is_layer, number_format_of
from edgerl.toolchain.quantisation.program import (
    WIDTH,
    FixedProgram,
    Stored,
)
from edgerl.toolchain.quantisation.proof import (
    require_no_overflow,
)
from edgerl.toolchain.quantisation.received import received_extents
from edgerl.toolchain.quantisation.rewriting import layer_names, prepared
from edgerl.toolchain.quantisation.rounding import Inputs
from edgerl.toolchain.quantisation.scheme import Scheme
from edgerl.toolchain.quantisation.selection import closest, smallest_table, trial
from edgerl.toolchain.quantisation.support import require_supported

_SCHEMES: Mapping[str, Scheme] = {
    "w16a16": fitting.SCHEME,
    "w8a16": fitting.SCHEME,
    "w4a16": fitting.SCHEME,
    "w32a32": words.SCHEME,
    "w8a8": octets.SCHEME,
}
NUMBER_FORMATS = tuple(_SCHEMES)

_CURVE_INDEX_BITS = 7
# Tables that 16-bit weights may make use of.
_INDEX_BITS = range(7, 10)
# For weights of 8 bits and of 4: by how many bits vectors may differ from what each layer's error
# alone makes best, and the first scale that rows try (`Coarse.first`). With 4 bits the errors of
# layers add up to very different ones of the action, so that more are worth a try.
_VARIANTS: Mapping[Stored, tuple[tuple[int, float], ...]] = {
    8: ((0, 1.0), (-1, 1.0), (1, 1.0)),
    4: tuple((wider, first) for wider in (0, 1) for first in (1.0, 0.99, 0.98, 0.97)),
}


def quantise(
    program: Program,
    calibration: Recordings,
    number_format: str | Mapping[str, str] | NumberFormat = "w16a16",
    *,
    spec: PolicySpec | None = None,
    index_bits: int | None = None,
) -> FixedProgram:
    """`program` in integers that provably cannot overflow.

    `calibration` are observations, [T, n] or [T, B, n], B sequences from a reset, a tuple of
    such recordings, or a Calibration of them, which also has a method. `number_format` is a word,
    or says which layers depart from the default (`formats.py`). `spec` brings the observation's
    signals, each of which gets a scale of its own, and their valid ranges. The activation table
    has 2^index_bits cells, by default in a 32-bit program 2^8 of 16 bytes, else 2^7 of 4; up to
    2^9 with 16-bit weights that make use of them (`selection.py`).

    Raises UserError for an unusable calibration, an operator or format that integers are not
    made for, a scale that underflows, and a row that cannot be proved.
    """
    formats = number_format_of(number_format, program)
    lowered, program = program, prepared(program)
    if formats.default not in _SCHEMES:
        raise UserError(
            f"number format {formats.default} has no integers yet; known: "
            f"{', '.join(NUMBER_FORMATS)}"
        )
    scheme = _SCHEMES[formats.default]
    width = scheme.arithmetic.width
    require_supported(program, width)
    inputs = Inputs(program)
    reached = extents(program, calibration, spec, bits=width, see=inputs.see)
    reached = received_extents(program, reached, scheme)
    stored = _stored(formats, lowered, program)

    def made(bits: int | None = index_bits, wider: int = 0, first: float = 1.0) -> FixedProgram:
        table = scheme.table(bits or scheme.index_bits)
        conversion = Construction(program, reached, scheme, table)
        conversion.economise(stored, inputs, wider, first)
        conversion.load(spec, bits or _CURVE_INDEX_BITS)
        for operation in program.operations:
            conversion.convert(operation)
        return FixedProgram(
            name=program.name,
            number_format=formats.default,
            observation=program.observation,
            action=program.action,
            states=program.states,
            operations=tuple(conversion.operations),
            halfwords=conversion.halfwords,
            table=conversion.table,
            width=width,
            curves=conversion.curves.tables,
        )

    whole: Stored = 16
    fewest = min(stored.values(), default=whole)
    if width == WIDTH and fewest < WIDTH:
        variants = (made(wider=wider, first=first) for wider, first in _VARIANTS[fewest])
        fixed = closest(variants, trial(lowered, calibration, spec))
    elif width == WIDTH and index_bits is None:
        fixed = smallest_table(made, _INDEX_BITS, trial(lowered, calibration, spec))
    else:
        fixed = made()
    require_no_overflow(fixed)
    return fixed


def _stored(formats: NumberFormat, lowered: Program, rewritten: Program) -> dict[str, Stored]:
    """The bits of the weights of each layer of the rewritten program: what the format says of the
    layers that there were, and 16 for those that only rewriting made."""
    whole: Stored = 16
    given, names = formats.stored(lowered), layer_names(lowered, rewritten)
    layers = (writes(op)[0] for op in rewritten.operations if is_layer(op))
    return {layer: given.get(names.get(layer, ""), whole) for layer in layers}
