"""Policy: a single-step ONNX graph plus what its numbers mean, saved as one .onnx file."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from edgerl.policies.spec import PolicySpec

SCHEMA = 1
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Trace:
    """A recorded run of a policy: what went in, what came out.

    observations [T, B, observation_size] and actions [T, B, action_size], float32, each of
    the B sequences starting from a reset. `source` says who produced it.
    """

    observations: Floats
    actions: Floats
    source: str


@dataclass(frozen=True)
class Policy:
    """A learned controller: graph, meaning, origin (DESIGN §1).

    The graph maps `(observation [1, n], state [1, k]…)` to `(action [1, m], state [1, k]…)`,
    inputs and outputs in the order of the spec. `assumed` lists, in words, every default that
    was made because nobody said otherwise; `examples` are vectors shipped by the policy's
    authors, kept beside the graph and never inside it. `integers` are those that the weights
    were trained for, in the quantiser's own words; empty where there are none.
    """

    graph: onnx.ModelProto
    spec: PolicySpec
    provenance: dict[str, str] = field(default_factory=dict)
    formats: dict[str, str] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    examples: Trace | None = None
    integers: str = ""

    @property
    def name(self) -> str:
        """The policy's name, a C identifier."""
        return self.spec.name

    @property
    def parameters(self) -> int:
        """Number of floating-point values in the graph's initializers, and of the quantised ones
        that it makes such of; without the scales of either."""
        graph = self.graph.graph
        pairs = [n for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
        stored = {n.input[0] for n in pairs}
        scales = {n.input[1] for n in pairs}
        return sum(
            int(np.prod(t.dims, dtype=np.int64)) if t.dims else 1
            for t in graph.initializer
            if t.name in stored or (t.data_type in _FLOATS and t.name not in scales)
        )

    def serialized(self) -> bytes:
        """The bytes of the policy's one file: graph and metadata, deterministic."""
        model = onnx.ModelProto()
        model.CopyFrom(self.graph)
        del model.metadata_props[:]
        properties = {
            "edgerl.schema": SCHEMA,
            "edgerl.spec": self.spec.model_dump(mode="json"),
            "edgerl.formats": self.formats,
            "edgerl.provenance": self.provenance,
            **({"edgerl.integers": self.integers} if self.integers else {}),
        }
        for key, value in properties.items():
            entry = model.metadata_props.add()
            entry.key = key
            entry.value = json.dumps(value, sort_keys=True, separators=(",", ":"))
        content: bytes = model.SerializeToString(deterministic=True)
        return content

    def sha256(self) -> str:
        """Hash of the policy's one file."""
        return hashlib.sha256(self.serialized()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the policy to `path`, aside first, so that no partial file ever stands there."""
        path = Path(path)
        aside = path.with_name(path.name + ".part")
        aside.write_bytes(self.serialized())
        aside.replace(path)
