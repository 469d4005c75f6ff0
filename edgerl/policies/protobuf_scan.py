"""What a protobuf message would take in memory, counted before the library makes objects of it.

An empty message is two bytes in a file and a hundred and more in memory. This walks the wire
format (protobuf.dev/programming-guides/encoding) as far as the message's own description goes,
allocates nothing, and stops at a bound.
"""

from collections.abc import Mapping
from typing import Any

MOST_FIELDS = 2_000_000
# Integers of one byte each become eight bytes each.
MOST_PACKED = 64 << 20

_VARINT, _FIXED64, _SIZED, _FIXED32 = 0, 1, 2, 5


def within_bounds(content: bytes, descriptor: Any) -> bool:
    """Whether a message described by `descriptor` has a bounded number of fields, those of the
    messages within it included. ValueError when the bytes are no such message."""
    fields = packed = 0
    waiting = [(descriptor, 0, len(content))]
    known: dict[str, Mapping[int, Any]] = {}
    while waiting:
        message, at, end = waiting.pop()
        if message.full_name not in known:
            known[message.full_name] = {f.number: f for f in message.fields}
        numbered = known[message.full_name]
        while at < end:
            fields += 1
            if fields > MOST_FIELDS:
                return False
            tag, at = _varint(content, at, end)
            kind = tag & 7
            if kind == _VARINT:
                _, at = _varint(content, at, end)
            elif kind in (_FIXED64, _FIXED32):
                at += 8 if kind == _FIXED64 else 4
            elif kind == _SIZED:
                size, at = _varint(content, at, end)
                field = numbered.get(tag >> 3)
                if field is not None and field.message_type is not None:
                    waiting.append((field.message_type, at, min(at + size, end)))
                elif field is not None and field.type not in (field.TYPE_STRING, field.TYPE_BYTES):
                    packed += size
                at += size
            else:
                raise ValueError("a group, which no such message has")
            if at > end:
                raise ValueError("a field beyond the end")
    return packed <= MOST_PACKED


def _varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    """The number that begins at a place, and the place after it."""
    value = shift = 0
    while at < end and shift < 70:
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("a number without an end")
