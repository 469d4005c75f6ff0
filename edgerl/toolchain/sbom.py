"""The software bill of materials of an artifact, in CycloneDX 1.6 JSON."""

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from edgerl.policies import Policy

_TOOLS = ("edgerl", "onnx", "numpy", "jinja2")


def bill(policy: Policy, build_id: str, compiler: str, files: Mapping[str, str]) -> str:
    """A CycloneDX document: the firmware's parts and the tools that made it.

    No time and no random serial: the serial number is derived from `build_id`, so that equal
    inputs give equal files. `files` maps names to sha256.
    """
    name = policy.name
    licence = [{"license": {"name": policy.spec.licence}}] if policy.spec.licence else []
    serial = (
        f"{build_id[:8]}-{build_id[8:12]}-5{build_id[13:16]}-8{build_id[17:20]}-{build_id[20:32]}"
    )
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "component": {"type": "firmware", "name": name, "version": build_id[:12]},
            "tools": {
                "components": [
                    {"type": "application", "name": tool, "version": _version(tool)}
                    for tool in _TOOLS
                ]
                + [{"type": "application", "name": compiler}]
            },
        },
        "components": [
            {
                "type": "machine-learning-model",
                "name": name,
                "hashes": [{"alg": "SHA-256", "content": policy.sha256()}],
                "licenses": licence,
                "properties": [
                    {"name": f"edgerl:{key}", "value": value}
                    for key, value in sorted(policy.provenance.items())
                ],
            },
            *(
                {
                    "type": "file",
                    "name": file,
                    "hashes": [{"alg": "SHA-256", "content": digest}],
                }
                for file, digest in sorted(files.items())
            ),
        ],
    }
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"
