"""Stages: the steps of a pipeline, told to whoever watches, and kept so that none is done twice.

A finished stage's result is stored under a hash of everything it depends on. An interrupted or
edited pipeline resumes at the first stage whose inputs changed.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol, TypeVar

T = TypeVar("T")
Advance = Callable[[int, int], None]


class Watcher(Protocol):
    """Whoever follows a pipeline: the command line, a notebook, nobody."""

    def stage(self, name: str) -> "Iterator[Advance]":
        """A stage begins; yields the function that takes (done, of)."""
        ...

    def say(self, text: str) -> None:
        """One line worth reading."""
        ...


class Silence:
    """Watches nothing."""

    def stage(self, name: str) -> Iterator[Advance]:
        """Ignore progress."""
        yield lambda done, of: None

    def say(self, text: str) -> None:
        """Ignore it."""


@contextmanager
def watched(watcher: Watcher, name: str) -> Iterator[Advance]:
    """The stage called `name`, from beginning to end, under `watcher`."""
    yield from watcher.stage(name)


class StageCache:
    """Results of finished stages, as JSON files named by the hash of the stage's inputs.

    `folder` None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(
        self,
        stage: str,
        inputs: Mapping[str, object],
        kind: type[T],
        compute: Callable[[], T],
    ) -> T:
        """The stored result of `stage` for `inputs`, or that of `compute`, stored.

        `inputs` holds everything the result depends on, as JSON values; edgerl's own code is
        added. A stored file that cannot be read is computed again; a cache that cannot be
        written costs time, never a result.
        """
        if self.folder is None:
            return compute()
        from pydantic import TypeAdapter, ValidationError

        adapter = TypeAdapter(kind)
        text = json.dumps([stage, edition(), inputs], sort_keys=True)
        path = self.folder / f"{stage}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
        with contextlib.suppress(OSError, ValidationError):
            return adapter.validate_json(path.read_bytes())
        result = compute()
        aside = path.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                aside.write_bytes(adapter.dump_json(result))
                aside.replace(path)
            finally:
                aside.unlink(missing_ok=True)
        return result


@cache
def edition() -> str:
    """SHA-256 over every file of this installation of edgerl: two editions share no results,
    even where both call themselves the same version."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file() and p.suffix != ".pyc"):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def installed(*packages: str) -> list[str]:
    """Those of the distributions `packages` that are here, each with its version: what a result
    depends on that they compute."""
    found = []
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return found
