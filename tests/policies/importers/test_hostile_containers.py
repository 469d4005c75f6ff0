"""Pickles and archives that ask for more than data: refused by a bound, before any is paid."""

import io
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerl.errors import UserError
from edgerl.policies.importers.containers import archive, pickles
from edgerl.policies.importers.containers.archive import opened
from edgerl.policies.importers.containers.pickles import read_pickle
from edgerl.policies.importers.containers.records import record
from edgerl.policies.importers.containers.torch_archive import read_torch

START = b"\x80\x04"
RECORD = b"cA\nB\n"


def text(content: str) -> bytes:
    """The operation that gives a text."""
    return pickle.BINUNICODE + struct.pack("<I", len(content)) + content.encode()


def integer(size: int) -> bytes:
    """The operation that gives an integer of so many bytes."""
    return pickle.LONG4 + struct.pack("<I", size) + b"\x7f" * size


def put(k: int) -> bytes:
    """Remember the object on the stack, and drop it there."""
    return pickle.LONG_BINPUT + struct.pack("<I", k) + pickle.POP


def get(k: int) -> bytes:
    """The object that was remembered."""
    return pickle.LONG_BINGET + struct.pack("<I", k)


def read(stream: bytes) -> Any:
    return read_pickle(START + stream + b".", "x.pkl", record)


# Every one of these took minutes or gigabytes when it was repeated a few 100,000 times, which a
# file of some kilobytes can do.
STREAMS = {
    "an integer whose hash is long": (b"}" + integer(100) + b"Ns", "a key that is neither"),
    "integers of one hash": (b"}" + b"\x8a\x08" + b"\xff" * 7 + b"\x1fNs", "a key that is"),
    "a text that is long to compare": (b"}" + text("k" * 1001) + b"Ns", "a key that is"),
    "a text in the place of arguments": (RECORD + text("abc") + b"R", "without a tuple"),
    "a thousand arguments": (
        b"(" + b"N" * 1000 + b"t" + put(0) + RECORD + get(0) + b"\x81",
        "more arguments than plain data",
    ),
    "one state given to many": (
        b"}(" + b"".join(text(str(k)) + b"N" for k in range(2000)) + b"u" + put(0)
        + RECORD + b")\x81" + (get(0) + b"b") * 600,
        "more arguments than plain data",
    ),
    "a class for every name": (
        b"(" + b"".join(b"cA\n%d\n" % k for k in range(1001)) + b"l",
        "a pickle with more than 1,000 names",
    ),
    "a data type of many fields": (
        b"cnumpy\ndtype\n" + text("i4," * 100 + "i4") + b"\x85R",
        "a data type that has no name",
    ),
    "a state for a function": (b"c_codecs\nencode\n}b", "items or a state for a _Callable"),
    "a state for a class": (RECORD + b"}b", "items or a state for a type"),
    "an item of a class": (RECORD + b"K\x01K\x01s", "items or a state for a type"),
    "items of a class": (RECORD + b"(K\x01K\x01u", "items or a state for a type"),
    "appended to a function": (b"c_codecs\nencode\nNa", "items or a state for a _Callable"),
    "appended to a text": (text("a") + b"(NNe", "items or a state for a str"),
    "a call of a text": (text("a") + b")R", "a call of something that is no function"),
    "an object of a function": (b"c_codecs\nencode\n)\x81", "an object of something that is no"),
    "an object by name": (
        RECORD + b")}" + text("a") + b"Ns\x92", "an object with arguments by name"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_streams_beyond_data(name: str) -> None:
    stream, message = STREAMS[name]
    with pytest.raises(UserError, match=message) as refused:
        read(stream)
    assert str(refused.value).startswith("x.pkl: ") and "\n" not in str(refused.value)


def test_names_reach_nothing() -> None:
    """Dotted names, dunders and functions of Python's own are records at most, which do nothing."""
    for name in (
        "builtins\ngetattr",
        "os\nsystem",
        "collections\nOrderedDict.__init__.__globals__",
    ):
        made = read(b"c" + name.encode() + b"\n" + text("x") + b"\x85R")
        assert isinstance(made, pickles.Record)
        with pytest.raises(UserError, match="asks for code"):
            read_pickle(START + b"c" + name.encode() + b"\n.", "x.pkl", {})
    # A state may set no attribute of a dictionary's, its class among them.
    ordered = read(b"ccollections\nOrderedDict\n)R}" + text("__class__") + RECORD + b"sb")
    assert ordered == {}


def test_pickles_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MOST_BYTES", 1 << 20)
    with pytest.raises(UserError, match="a pickle of more than"):
        read(b"B" + struct.pack("<I", 1 << 20) + bytes(1 << 20))


def tensor(kind: bytes, key: bytes = b"0", count: int = 16) -> bytes:
    """The operations that give a [2, 2] tensor, every second number of a storage."""
    storage = b"(" + text("storage") + kind + text(key.decode()) + text("cpu")
    storage += b"J" + struct.pack("<i", count) + b"tQ"
    sizes = b"K\x02K\x02\x86" + b"K\x04K\x02\x86"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + sizes + b"\x89NtR"


FLOATS = b"ctorch\nFloatStorage\n"


def torch_file(stream: bytes, content: bytes = bytes(64)) -> archive.Archive:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("m/data.pkl", START + stream + b".")
        made.writestr("m/data/0", content)
    return opened(file.getvalue(), "x.pt")


@pytest.mark.parametrize("kind", ["O", "V64", "(4,)f4", "i4," * 1000 + "i4"])
def test_storages_of_any_type(kind: str) -> None:
    with pytest.raises(UserError, match="a storage of unknown kind"):
        read_torch(torch_file(tensor(text(kind))), "m/data.pkl")


def test_tensors_take_no_items_and_no_state() -> None:
    """numpy would look into whatever is stored, lists within lists without end among it."""
    for operation in (b"K\x00](K\x01K\x01es", b"}b", b"Na"):
        with pytest.raises(UserError, match="items or a state for a ndarray"):
            read_torch(torch_file(tensor(FLOATS) + operation), "m/data.pkl")


def test_a_storage_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.arange(16, dtype="<f4")
    kinds = (FLOATS, FLOATS, b"ctorch\nIntStorage\n")
    stream = b"(" + b"".join(tensor(kind) for kind in kinds) + b"l"
    members = []
    once = archive.Archive.read

    def counted(self: archive.Archive, name: str) -> bytes:
        members.append(name)
        return once(self, name)

    monkeypatch.setattr(archive.Archive, "read", counted)
    first, second, bits = read_torch(torch_file(stream, numbers.tobytes()), "m/data.pkl")
    np.testing.assert_array_equal(first, [[0, 2], [4, 6]])
    np.testing.assert_array_equal(second, first)
    np.testing.assert_array_equal(bits, first.view("<i4"))
    assert members.count("m/data/0") == 1


def entry(name: bytes, extra: bytes = b"") -> bytes:
    """An entry of an archive's directory, for an empty member."""
    numbers = (20, 20, 0, 0, 0, 0, 0, 0, 0, len(name), len(extra), 0, 0, 0, 0, 0)
    return b"PK\1\2" + struct.pack("<HHHHHHIIIHHHHHII", *numbers) + name + extra


def directory(entries: list[bytes]) -> bytes:
    """An archive that is nothing but its directory."""
    listed = b"".join(entries)
    count = min(len(entries), 0xFFFF)
    return listed + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, len(listed), 0, 0)


@pytest.mark.parametrize(
    "name", ["C:/data", "C:data", "\\\\host\\share\\data", "/data", "a/../../b"]
)
def test_names_that_leave_the_archive(name: str) -> None:
    with pytest.raises(UserError, match="leaves the archive"):
        opened(directory([entry(name.encode())]), "x.zip")


def test_directories_are_bounded_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    # zipfile makes an object of every entry, and cuts what is extra of one again and again.
    for entries in ([entry(b"")] * 50_000, [entry(b"a", b"\x99\x99\0\0" * 16_000)] * 40):
        made: list[object] = []
        monkeypatch.setattr(zipfile, "ZipInfo", lambda *a, made=made: made.append(a) or sys.exit())
        with pytest.raises(UserError, match="no zip archive"):
            opened(directory(entries), "x.zip")
        assert not made


def test_archives_larger_than_any_controller(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with path.open("wb") as file:
        file.truncate((256 << 20) + 1)
    with pytest.raises(UserError, match=r"x\.zip: larger than 256 MiB"):
        archive.open_archive(path)


def test_lists_of_torchscript_are_not_copied() -> None:
    from edgerl.policies.importers import torchscript

    build: Callable[[Any], Any] = torchscript._JIT_NAMES["torch.jit._pickle.build_intlist"]
    items = [1, 2]
    assert build(items) is items
    with pytest.raises(ValueError, match="a list that is none"):
        build("ab")


def test_keys_within_the_bounds() -> None:
    key = "k" * 1000
    stream = b"}(" + text(key) + b"K\x01" + b"J\xff\xff\xff\x7fNG" + struct.pack(">d", 0.5) + b"N"
    assert read(stream + b"NNu") == {key: 1, (1 << 31) - 1: None, 0.5: None, None: None}
