"""What an HDF5 file holds, as plain data: members of groups, texts, and where tensors lie.

The C library that reads HDF5 can crash or run forever on a file made to that end. So this module
also runs as a script, in a process that can be stopped: the file on standard input, JSON on
standard output. It imports nothing of edgerl's.
"""

import io
import json
import sys
from typing import Any

_MOST_ENTRIES = 20_000
_DEEPEST = 24
_MOST_AXES = 8
_MOST_ATTRIBUTES = 64
_MOST_TEXT = 1 << 16
_MOST_ANSWER = 16 << 20
_MOST_MEMORY = 2 << 30

Entry = dict[str, Any]


def scan(content: bytes) -> dict[str, Entry]:
    """An entry for every path of the file, "" for its root.

    A group has `members` and `texts` (its attributes that are texts), a tensor `dtype`, `shape`
    and `start`, the place of its first byte. What cannot be read has `wrong`, which says why: a
    link, a dataset stored in pieces, packed, or elsewhere, and whatever is damaged. Raises
    ValueError when the file as a whole is damaged or too large.
    """
    import h5py

    try:
        file = h5py.File(io.BytesIO(content), "r")
    # The library raises errors of many kinds for damaged data, here and below.
    except Exception as error:
        raise ValueError(str(error)) from error
    entries: dict[str, Entry] = {}
    length = 0
    waiting = [("", file)]
    with file:
        while waiting:
            path, found = waiting.pop()
            if len(entries) == _MOST_ENTRIES:
                raise ValueError(f"more than {_MOST_ENTRIES:,} groups and datasets")
            try:
                if path.count("/") >= _DEEPEST:
                    raise ValueError("lies too deep; groups within themselves?")
                if isinstance(found, h5py.Group):
                    entries[path] = {"members": list(found), "texts": _texts(found)}
                    waiting += [(f"{path}/{name}".lstrip("/"), (found, name)) for name in found]
                elif isinstance(found, tuple):
                    waiting.append((path, _member(*found)))
                else:
                    entries[path] = _dataset(found, len(content))
            except Exception as error:
                entries[path] = {"wrong": str(error)[:_MOST_TEXT] or type(error).__name__}
            # Names and texts that stand in the file once may be met under thousands of paths.
            length += len(path) + _length(entries.get(path, {}))
            if length > _MOST_ANSWER:
                raise ValueError("names and texts without end")
    return entries


def _length(entry: Entry) -> int:
    """Characters of an entry's names and texts."""
    texts = entry.get("texts", {})
    held = (*entry.get("members", ()), *texts, *filter(None, texts.values()))
    return sum(map(len, held)) + len(entry.get("wrong", ""))


def _member(group: Any, name: str) -> Any:
    """What a group holds by that name, if it lies in this file."""
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError("is a link to another place; not supported")
    return group[name]


def _texts(group: Any) -> dict[str, str | None]:
    """The attributes of a group; None for those that are no texts."""
    import h5py

    texts: dict[str, str | None] = {}
    for number, name in enumerate(group.attrs):
        if number == _MOST_ATTRIBUTES:
            raise ValueError(f"has more than {_MOST_ATTRIBUTES} attributes")
        entry = group.attrs.get_id(name)
        plain = entry.shape == () and h5py.check_string_dtype(entry.dtype) is not None
        if not plain or entry.dtype.itemsize > _MOST_TEXT:
            texts[name] = None
            continue
        value = group.attrs[name]
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        texts[name] = text[:_MOST_TEXT]
    return texts


def _dataset(data: Any, size: int) -> Entry:
    """A tensor stored in one piece; ValueError says why a dataset is none."""
    import h5py

    if not isinstance(data, h5py.Dataset) or data.shape is None:
        raise ValueError("is no tensor")
    if data.dtype.kind != "f" or data.dtype.itemsize not in (4, 8):
        raise ValueError(f"is of type {data.dtype}; save the weights in float32")
    if len(data.shape) > _MOST_AXES:
        raise ValueError(f"has {len(data.shape)} axes; {_MOST_AXES} are possible")
    plan = data.id.get_create_plist()
    if data.is_virtual or plan.get_external_count():
        raise ValueError("lies in another file; not supported")
    if data.chunks is not None or plan.get_nfilters():
        raise ValueError(
            "is stored in chunks or packed; not supported, unpack it: h5repack -l CONTI -f NONE"
        )
    shape = [int(n) for n in data.shape]
    wanted = data.dtype.itemsize
    for n in shape:
        wanted *= n
    start = data.id.get_offset()
    if start is None or data.id.get_storage_size() != wanted or start + wanted > size:
        raise ValueError(f"has sizes {shape} and is not stored in full; is the file complete?")
    return {"dtype": data.dtype.str, "shape": shape, "start": int(start)}


def main() -> None:
    """Scan standard input; the answer is {"entries": …} or {"wrong": …}."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    except (ImportError, ValueError, OSError):
        # Not every system can bound a process; the time is bounded everywhere.
        pass
    try:
        answer: dict[str, Any] = {"entries": scan(sys.stdin.buffer.read())}
    except (ValueError, MemoryError) as error:
        answer = {"wrong": str(error) or "out of memory"}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
