"""The code in a TorchScript archive: Python by syntax, parsed file by file and never run."""

import ast
from collections.abc import Mapping

from edgerl.errors import UserError
from edgerl.policies.importers.aten.symbolic import Refused
from edgerl.policies.importers.containers.archive import Archive
from edgerl.policies.names import shown

MOST_CODE = 1 << 20

Definition = ast.FunctionDef


class Code:
    """The functions and classes in an archive, each file parsed when it is first needed."""

    def __init__(self, archive: Archive, root: str) -> None:
        self._archive, self._root = archive, root
        self._modules: dict[str, Mapping[str, ast.stmt]] = {}
        self._methods: dict[str, Mapping[str, Definition]] = {}
        self._size = 0

    def method(self, kind: str, name: str) -> Definition | None:
        """A method of a class by its dotted name; None where the class has no such method."""
        if kind not in self._methods:
            found = self._find(kind)
            if not isinstance(found, ast.ClassDef):
                raise Refused(f"names {shown(kind)}, which is no class")
            self._methods[kind] = {i.name: i for i in found.body if isinstance(i, Definition)}
        return self._methods[kind].get(name)

    def function(self, name: str) -> Definition | None:
        """A function by its dotted name; None for a named tuple's class."""
        found = self._find(name)
        if isinstance(found, Definition):
            return found
        bases = found.bases if isinstance(found, ast.ClassDef) else []
        if any(isinstance(base, ast.Name) and base.id == "NamedTuple" for base in bases):
            return None
        raise Refused(f"makes an object of class {shown(name)}")

    def _find(self, name: str) -> ast.stmt:
        module, _, last = name.rpartition(".")
        found = self._module(module).get(last)
        if found is None:
            raise Refused(f"names {shown(name)}, which the archive does not hold")
        return found

    def _module(self, name: str) -> Mapping[str, ast.stmt]:
        if name not in self._modules:
            member = f"{self._root}/code/{name.replace('.', '/')}.py"
            if member not in self._archive:
                raise Refused(f"names {shown(name)}, which the archive does not hold")
            text = self._archive.read(member)
            self._size += len(text)
            if self._size > MOST_CODE:
                raise Refused(f"has more than {MOST_CODE >> 20} MiB of code")
            where = f"{self._archive.where}: {shown(member)[1:-1]}"
            try:
                tree = ast.parse(text.decode())
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                raise UserError(f"{where}: not readable as TorchScript") from error
            named = (ast.ClassDef, Definition)
            self._modules[name] = {i.name: i for i in tree.body if isinstance(i, named)}
        return self._modules[name]
