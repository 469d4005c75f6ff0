"""RAPTOR in integers, flown beside RAPTOR in floats: the same vehicles, starts and disturbances.

    python -m benchmarks.flights [FORMAT ...] [--episodes N]

Calibrated as a compile does it by default. The arithmetic is that of `quantisation.run`, which
every emitted build equals bit for bit. The result is
`benchmarks/results/flights.json`: for each format how many survive in both, in floats alone and
in integers alone, the final position error of both, and the error of an action on the vectors
that the policy ships.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgerl.policies import load
from edgerl.policies.plants import Hover, rollout
from edgerl.policies.plants.rollout import Flight
from edgerl.toolchain import interpreter, quantisation
from edgerl.toolchain.ir import Program
from edgerl.toolchain.lowering import lower
from edgerl.toolchain.quantisation import FixedProgram
from edgerl.toolchain.quantisation.sources import calibration_for

RESULTS = Path(__file__).parent / "results" / "flights.json"
FORMATS = ("w32a32", "w16a16", "w8a16", "w4a16", "w8a8")

Singles = npt.NDArray[np.float32]
Step = Callable[[Singles], Singles]


def float_step(program: Program) -> Step:
    """The float program as a step callable, from a reset."""
    kept: list[tuple[npt.NDArray[np.float64], ...]] = []

    def step(observation: Singles) -> Singles:
        before = kept.pop() if kept else interpreter.reset(program, (len(observation),))
        action, after = interpreter.run(program, observation, before)
        kept.append(after)
        return action.astype(np.float32)

    return step


def fixed_step(program: FixedProgram) -> Step:
    """The fixed program as a step callable, from a reset."""
    kept: list[tuple[npt.NDArray[np.int32], ...]] = []

    def step(observation: Singles) -> Singles:
        before = kept.pop() if kept else quantisation.reset(program, (len(observation),))
        action, after = quantisation.run(program, observation, before)
        kept.append(after)
        return action

    return step


def flown(step: Step, suite: Hover) -> Flight:
    """The flights of a suite."""
    quads, start = suite.draw(suite.episodes)
    limits = suite.limits
    return rollout(quads, start, step, steps=suite.steps, feedback="clamped", limits=limits)


def compared(ours: Flight, theirs: Flight, steps: int) -> dict[str, float]:
    """Survival in percent and the mean final position error in m of the survivors, paired."""
    alive, expected = ours.length == steps, theirs.length == steps
    both = alive & expected
    return {
        "survival": 100.0 * float(alive.mean()),
        "survival_in_floats": 100.0 * float(expected.mean()),
        "only_in_integers": int((alive & ~expected).sum()),
        "only_in_floats": int((expected & ~alive).sum()),
        "final_error": float(ours.error[-1, both].mean()),
        "final_error_in_floats": float(theirs.error[-1, both].mean()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Fly and write."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("formats", nargs="*", metavar="FORMAT", default=list(FORMATS))
    parser.add_argument("--episodes", type=int, default=4096)
    given = parser.parse_args(arguments)
    policy = load("raptor")
    program = lower(policy)
    calibration = calibration_for(policy, program)
    suite = replace(Hover(), episodes=given.episodes)
    theirs = flown(float_step(program), suite)
    examples = policy.examples
    assert examples is not None
    exact = float_step(program)
    actions = np.stack([exact(seen) for seen in examples.observations])
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for number_format in given.formats:
        fixed = quantisation.quantise(program, calibration, number_format, spec=policy.spec)
        figures = compared(flown(fixed_step(fixed), suite), theirs, suite.steps)
        step = fixed_step(fixed)
        off = np.stack([step(seen) for seen in examples.observations]) - actions
        figures["episodes"] = given.episodes
        figures["largest_error_on_published_vectors"] = float(np.abs(off).max())
        results[number_format] = figures
        print(number_format, json.dumps(figures))
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
