"""Remarks that a report makes beside its figures."""

from pathlib import Path

import numpy as np
import pytest

from edgerl.policies import PolicySpec, Signal, load
from edgerl.policies.graph import GraphBuilder
from edgerl.targets import target
from edgerl.toolchain.checks.remarks import hurried, unseen_choices
from edgerl.toolchain.golden import parse
from edgerl.toolchain.report.model import Measured, Spread


@pytest.mark.parametrize(("most", "warned"), [(840_001, True), (840_000, False), (100, False)])
def test_a_step_of_more_than_half_its_period(most: int, warned: bool) -> None:
    measured = Measured(instructions=Spread(most, most, float(most)))
    said = hurried(target("crazyflie21"), 100.0, measured)
    assert bool(said) == warned
    if warned:
        assert "50% of the 10 ms" in said[0]
    assert hurried(target("host"), 100.0, measured) == []
    assert hurried(target("crazyflie21"), 100.0, Measured()) == []


def test_choices_that_were_never_taken(tmp_path: Path) -> None:
    import edgerl

    build = GraphBuilder()
    weight = np.eye(3, dtype=np.float32)
    x = build.dense(build.input("observation", 3), weight, np.float32([0.0, 0.0, -1e9]))
    build.output(build.argmax(x), "action", 1)
    (tmp_path / "net.onnx").write_bytes(build.finished().SerializeToString())
    spec = PolicySpec(
        name="net",
        observation=(Signal(name="seen", size=3, range=(-5.0, 5.0)),),
        action=(Signal(name="pick", size=1, range=(0.0, 2.0), discrete=True),),
    )
    policy = load(tmp_path / "net.onnx", spec)
    made = edgerl.compile(policy, target="host", output=tmp_path / "out").artifact
    golden = parse((made.folder / "golden.bin").read_bytes(), "golden.bin")
    assert unseen_choices(spec, golden) == [
        "action pick[0]: the golden trace took 2 of 3 choices; parity says nothing of the others"
    ]
    plain = spec.model_copy(update={"action": (Signal(name="pick", size=1, range=(0.0, 2.0)),)})
    assert unseen_choices(plain, golden) == []
