"""Reports: where one begins, and where it is kept."""

import json

from edgerl.toolchain.artifact import Artifact, write_aside
from edgerl.toolchain.compiling import candidates_of
from edgerl.toolchain.report.html import render
from edgerl.toolchain.report.model import PolicyFacts, Report


def blank(artifact: Artifact) -> Report:
    """The report of an artifact nobody has measured."""
    manifest = artifact.manifest
    policy = manifest.policy
    return Report(
        policy=PolicyFacts(policy.name, policy.sha256, policy.parameters, policy.macs),
        target=manifest.target.name,
        format=manifest.format,
        numerics=manifest.numerics,
        compiler=manifest.compiler.version,
        verified_by=manifest.target.verified_by,
        counter="none",
        candidates=candidates_of(artifact),
        notes=(
            *(f"assumed: {line}" for line in policy.assumed),
            *(choice.told for choice in manifest.layers),
        ),
    )


def publish(artifact: Artifact, report: Report) -> None:
    """Write report.json and report.html into the artifact, each aside first."""
    manifest = artifact.manifest
    data = json.dumps(report.to_json(), indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_aside(artifact.folder / "report.json", data)
    page = render(report, manifest.spec, clock_hz=manifest.target.clock_hz)
    write_aside(artifact.folder / "report.html", page)
