"""edgerl: from a learned controller to verified firmware.

    import edgerl

    outcome = edgerl.compile("raptor", target="crazyflie21", check=True)
    outcome.report.measured.instructions.max

`load` reads a policy, `compile` makes an artifact of it, `check` proves an artifact, `evaluate`
flies either, `replay` runs a recorded log through an artifact; a `Controller` is the emitted code,
called from Python. Importing edgerl imports nothing but itself: what a call needs comes with the
call.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgerl.errors import EdgerlError, ToolError, UserError

if TYPE_CHECKING:
    from edgerl.controller import Controller
    from edgerl.evaluation import Evaluation
    from edgerl.pipeline import Outcome
    from edgerl.policies import Policy, PolicySpec
    from edgerl.policies.importers.sb3.export import export_sb3
    from edgerl.targets.model import Format
    from edgerl.toolchain.report.model import Report
    from edgerl.toolchain.report.replayed import Replay

    __version__: str

__all__ = [
    "Controller",
    "EdgerlError",
    "Policy",
    "PolicySpec",
    "ToolError",
    "UserError",
    "check",
    "compile",
    "evaluate",
    "export_sb3",
    "load",
    "replay",
]


def load(
    source: Any,
    spec: "str | Path | PolicySpec | None" = None,
    *,
    layers: str | Path | None = None,
    vecnormalize: str | Path | None = None,
    example: Any = None,
) -> "Policy":
    """Read a policy: a family's name (`raptor`), an `.onnx` file, another tool's checkpoint, or
    a torch.nn.Module with `example=torch.zeros(1, n)`, one observation.

    `spec` (a TOML file or a PolicySpec) says what the numbers mean, in place of what the source
    itself says; `layers` lists the layers of bare weights, `vecnormalize` is the file that
    VecNormalize.save() wrote. Raises UserError when the source is unknown or wrong or the spec
    does not fit it, ToolError when a package that reading needs is missing.
    """
    from edgerl import policies

    return policies.load(source, spec, layers=layers, vecnormalize=vecnormalize, example=example)


def compile(
    source: "str | Path | Policy",
    *,
    target: str,
    spec: str | Path | None = None,
    layers: str | Path | None = None,
    vecnormalize: str | Path | None = None,
    output: str | Path | None = None,
    format: "Format | Literal['auto'] | None" = None,
    calibration: str | Path | None = None,
    fma: Literal["on", "off", "auto"] = "auto",
    sparse: Literal["auto", "flash", "off"] = "auto",
    kernels: Literal["auto", "portable"] = "auto",
    compiler: Literal["zig", "gcc"] = "zig",
    check: bool = False,
    limits: Mapping[str, float] | None = None,
) -> "Outcome":
    """Compile `source` (a family's name, a file, or a policy that `load` returned) for `target`;
    returns artifact and report.

    `spec`, `layers` and `vecnormalize` are as in `load`. `format` is f32 or a format of
    integers, which are chosen by the observations in the .npy file `calibration`, or else by
    flights of the policy where its plant is known, and by the golden trace; with "auto" it is the
    smallest program that flies as well within the limits. With `check` the artifact is also
    proven; `limits` bounds measured figures from above, such as `{"instructions": 2900}`. A
    missed limit raises nothing: see `report.ok`. Raises UserError and ToolError.
    """
    from edgerl import pipeline, recipe
    from edgerl.documents import validated

    loaded = None if isinstance(source, str | Path) else source
    beside = {"spec": spec, "layers": layers, "vecnormalize": vecnormalize}
    if loaded is not None and any(beside.values()):
        raise UserError("compile: a policy that is loaded has its spec; give files to load")
    rows: dict[str, Any] = {
        "source": {"policy": loaded.name if loaded else str(source), **beside},
        "target": {
            "name": target, "format": format, "fma": fma, "sparse": sparse, "kernels": kernels,
            "compiler": compiler, "output": output,
        },
        "quantise": {"calibration": calibration},
    }  # fmt: skip
    if check or limits:
        rows["check"] = {"limits": dict(limits or {})}
    return pipeline.run(validated(recipe.Recipe, rows, "compile"), policy=loaded)


def check(artifact: str | Path, *, limits: Mapping[str, float] | None = None) -> "Report":
    """Prove the artifact in a folder; returns the report, which also replaces the artifact's.

    `limits` bounds measured figures as in `compile`. Raises UserError when the folder holds no
    whole artifact, ToolError when nothing is installed that could run it.
    """
    from edgerl import checking, recipe, reports
    from edgerl.documents import validated
    from edgerl.toolchain.artifact import read_artifact

    asked = validated(recipe.Check, {"limits": dict(limits or {})}, "check")
    opened = read_artifact(Path(artifact))
    report = checking.check(opened, asked)
    reports.publish(opened, report)
    return report


def evaluate(
    source: str | Path,
    *,
    suite: str,
    spec: str | Path | None = None,
    episodes: int | None = None,
    feedback: Literal["raw", "clamped"] = "clamped",
    limits: Mapping[str, float] | None = None,
) -> "Evaluation":
    """Fly a policy, or the artifact in a folder, through a closed-loop suite.

    See `edgerl.evaluation.evaluate`. Raises UserError and ToolError.
    """
    from edgerl import evaluation

    return evaluation.evaluate(
        source, suite, spec=spec, episodes=episodes, feedback=feedback, limits=limits
    )


def replay(
    log: str | Path,
    artifact: str | Path,
    *,
    on: Literal["host", "emulated"] = "host",
    mode: Literal["step", "evaluate"] = "step",
    output: str | Path | None = None,
    limits: Mapping[str, float] | None = None,
) -> "Replay":
    """Run a recorded log of observations, a CSV file, through the artifact in a folder.

    See `edgerl.replaying.replay`. Raises UserError and ToolError.
    """
    from edgerl import replaying

    return replaying.replay(log, artifact, on=on, mode=mode, output=output, limits=limits)


_ELSEWHERE = {
    "Controller": "edgerl.controller",
    "Policy": "edgerl.policies",
    "PolicySpec": "edgerl.policies",
    "export_sb3": "edgerl.policies.importers.sb3.export",
}


def __getattr__(name: str) -> Any:
    if name in _ELSEWHERE:
        from importlib import import_module

        return getattr(import_module(_ELSEWHERE[name]), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("edgerl")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
