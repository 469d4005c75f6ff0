"""torch modules from Python: exported in memory, then read like any exported program."""

import copy
import io
import warnings
from typing import Any

from edgerl.errors import ToolError, UserError
from edgerl.policies.assembly import assemble
from edgerl.policies.importers import exported_program
from edgerl.policies.names import shown
from edgerl.policies.policy import Policy
from edgerl.policies.spec import PolicySpec


def from_module(module: Any, example: Any, spec: PolicySpec | None = None) -> Policy:
    """The policy of a torch module in eval mode; the module itself stays as it is.

    `example` is an observation with one row, `torch.zeros(1, n)`, or a tuple of the observation
    and every state that forward() takes; its numbers do not matter. Raises ToolError without
    torch, UserError where the module cannot be exported or does what no policy can.
    """
    try:
        import torch
    except ImportError as error:
        raise ToolError("a torch module needs torch; pip install torch") from error
    if not isinstance(module, torch.nn.Module):
        raise UserError(
            f"a {type(module).__name__} is no policy: give a file, a family's name, or a "
            "torch.nn.Module with example=torch.zeros(1, n)"
        )
    title = type(module).__name__
    if example is None:
        raise UserError(f"{title}: a torch module needs example=torch.zeros(1, n), one observation")
    arguments = tuple(example) if isinstance(example, tuple | list) else (example,)
    frozen = copy.deepcopy(module).eval()
    file = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(frozen, _separate(arguments))
            torch.export.save(program, file)
    # torch.export runs the module's own code, which may raise anything.
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = shown(lines[0] if lines else type(error).__name__)[1:-1]
        raise UserError(
            f"{title}: torch.export cannot trace it ({reason}); write forward() without branches "
            "or loops over tensor values, and try torch.export.export(module, (example,))"
        ) from error
    found = exported_program.parsed(file.getvalue(), title)
    return assemble(found, title, title, spec)


def _separate(example: Any) -> Any:
    """An example whose tensors are all of their own: torch.export takes one that stands in two
    places for one input."""
    if isinstance(example, tuple | list):
        return type(example)(_separate(item) for item in example)
    if isinstance(example, dict):
        return {key: _separate(item) for key, item in example.items()}
    return example.clone() if hasattr(example, "clone") else example
