"""How figures and foreign text are set in a report: digits, exponents, bytes, safe characters."""

import json
import math

NOT_RUN = "not run"
NARROW_SPACE = "\u202f"
_KEPT = frozenset("\n\u00a0" + NARROW_SPACE)
_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def printable(text: str) -> str:
    """`text` with every character that a page must not carry replaced by U+FFFD: control
    characters and lone surrogates (not well-formed XML), and the invisible ones that reorder
    or hide their neighbours."""
    return "".join(c if c.isprintable() or c in _KEPT else "\ufffd" for c in text)


def scientific(value: float, digits: int = 3) -> str:
    """`value` as `7.15×10⁻⁷`, to `digits` significant digits."""
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa.replace('-', '−')}×10{str(int(exponent)).translate(_SUPERSCRIPT)}"


def number(value: float | None, digits: int = 4) -> str:
    """`value` as a reader wants it: whole numbers with thousands marked, others to `digits`
    significant digits, very small and very large ones with a power of ten."""
    if value is None:
        return NOT_RUN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e9):
        return f"{int(value):,}".replace("-", "−")
    if not 1e-3 <= abs(value) < 1e9:
        return scientific(value, digits)
    text = _decimal(value, digits)
    return text.rstrip("0").rstrip(".") if "." in text else text


def _decimals(value: float, digits: int) -> int:
    """Decimals that show `value` to `digits` significant digits at least."""
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    return max(0, digits - 1 - magnitude)


def _decimal(value: float, digits: int) -> str:
    """`value` without a power of ten, trailing zeros kept."""
    return f"{value:,.{_decimals(value, digits)}f}".replace("-", "−")


def _digits_beside(value: float, bound: float, digits: int) -> int:
    """The fewest significant digits, `digits` at least, with which `value` is still shown on
    its own side of `bound`."""
    while digits < 17:
        shown = round(value, _decimals(value, digits))
        if (shown > bound) == (value > bound) and (shown < bound) == (value < bound):
            break
        digits += 1
    return digits


def number_beside(value: float, bound: float, digits: int = 4) -> str:
    """`value` to `digits` significant digits, or as many more as it takes that rounding never
    shows a miss as a hold."""
    return number(value, _digits_beside(value, bound, digits))


def percent(share: float, digits: int = 3) -> str:
    """A share of one as per cent, `95.8 %`; never 100 % of what is not quite all."""
    value = 100.0 * share
    if not math.isfinite(value):
        return number(value)
    shown = _decimal(value, _digits_beside(value, 100.0, digits)) if value else "0"
    return f"{shown}{NARROW_SPACE}%"


def kilobytes(size: int) -> str:
    """`size` in kB of 1024 bytes."""
    return f"{size / 1024:.1f}{NARROW_SPACE}kB"


def words(name: str) -> str:
    """A key such as `final_error_mean` as words."""
    return name.replace("_", " ")


def anything(value: object) -> str:
    """A certificate's value, whatever its type: figures as figures, two of them as a range, named
    parts one after the other, other structures as JSON."""
    match value:
        case None | bool() | int() | float():
            return "–" if value is None else number(value)
        case str():
            return value
        case [int() | float() as low, int() | float() as high]:
            return f"{number(low)} … {number(high)}"
        case dict():
            parts = (
                f"{key}: {anything(each)}" if isinstance(each, dict) else f"{key} {anything(each)}"
                for key, each in value.items()
            )
            return ", ".join(parts)
        case _:
            return json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
