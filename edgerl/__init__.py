"""edgerl: from a learned controller to verified firmware.

    import edgerl

    outcome = edgerl.compile("raptor", target="crazyflie21", check=True)
    outcome.report.measured.instructions.max

`load` reads a policy, `compile` makes an artifact of it, `check` proves an artifact. Importing
edgerl imports neither a compiler, nor an emulator, nor torch.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgerl.errors import EdgerlError, ToolError, UserError
from edgerl.policies import Policy, PolicySpec, load

if TYPE_CHECKING:
    from edgerl.pipeline import Outcome
    from edgerl.toolchain.report.model import Report

__version__ = version("edgerl")
__all__ = [
    "EdgerlError",
    "Policy",
    "PolicySpec",
    "ToolError",
    "UserError",
    "check",
    "compile",
    "load",
]


def compile(
    source: str | Path,
    *,
    target: str,
    spec: str | Path | None = None,
    output: str | Path | None = None,
    fma: Literal["on", "off", "auto"] = "auto",
    kernels: Literal["auto", "portable"] = "auto",
    compiler: str = "zig",
    check: bool = False,
    limits: Mapping[str, float] | None = None,
) -> "Outcome":
    """Compile `source` (a family's name or a file) for `target`; returns artifact and report.

    With `check` the artifact is also proven; `limits` bounds measured figures from above, such
    as `{"instructions": 2900}`. A missed limit raises nothing: see `report.ok`. Raises UserError
    and ToolError.
    """
    from edgerl import pipeline, recipe

    rows: dict[str, Any] = {
        "source": {"policy": str(source), "spec": spec},
        "target": {
            "name": target, "fma": fma, "kernels": kernels, "compiler": compiler, "output": output,
        },
    }  # fmt: skip
    if check or limits:
        rows["check"] = {"limits": dict(limits or {})}
    return pipeline.run(recipe.Recipe.model_validate(rows))


def check(artifact: str | Path) -> "Report":
    """Prove the artifact in a folder; returns the report, which also replaces the artifact's.

    Raises UserError when the folder holds no whole artifact, ToolError when nothing is installed
    that could run it.
    """
    from edgerl import checking, pipeline
    from edgerl.toolchain.artifact import read_artifact

    opened = read_artifact(Path(artifact))
    report = checking.check(opened)
    pipeline.publish_report(opened, report)
    return report
