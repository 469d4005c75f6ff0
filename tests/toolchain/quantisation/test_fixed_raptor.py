"""RAPTOR in integers: how close it is, that it does not drift, and how it flies."""

from dataclasses import replace

import numpy as np
from fixed_steps import Singles, difference, fixed_step, float_step
from quantised import Quantised

from edgerl.policies.plants import Hover, fly, rollout
from edgerl.toolchain import golden, quantisation
from edgerl.toolchain.quantisation.program import FixedDense, FixedGru, FixedInput, FixedOutput

# Standard deviations of a flight's signals: position, rotation, velocity, body rate, action.
SPREAD = np.repeat([0.2, 0.6, 0.7, 2.0, 0.5], [3, 9, 3, 3, 4])


def noise(steps: int, sequences: int, held: int, seed: int) -> Singles:
    """[steps, sequences, 22], each value held for so many steps."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((steps // held, sequences, 22)) * SPREAD
    return np.repeat(values, held, axis=0).astype(np.float32)


def test_every_accumulator_is_proved_and_well_used(raptor: Quantised) -> None:
    assert quantisation.require_no_overflow(raptor.fixed) < 1.0
    for stretch in quantisation.stretches(raptor.fixed):
        if stretch.part not in ("share", "distance"):
            assert 0.25 < stretch.ratios.max() < 1.0, stretch.part


def test_its_integers_are_of_the_expected_kinds(raptor: Quantised) -> None:
    kinds = [type(operation) for operation in raptor.fixed.operations]
    assert kinds == [FixedInput, FixedDense, FixedGru, FixedDense, FixedOutput]
    assert raptor.fixed.table.words.nbytes == 512


def test_it_is_quantised_the_same_twice(raptor: Quantised) -> None:
    calibration = (raptor.flown, golden.inputs(raptor.policy, "evaluate")[0][:2048])
    again = quantisation.quantise(raptor.program, calibration, spec=raptor.policy.spec)
    first, second = (repr(p.operations) for p in (again, raptor.fixed))
    assert first == second


def test_200_steps_stay_within_the_stated_error(raptor: Quantised) -> None:
    assert raptor.policy.examples is not None
    seen: list[Singles] = []
    step = float_step(raptor.program)

    def watched(observation: Singles) -> Singles:
        seen.append(observation.copy())
        return step(observation)

    quads, start = Hover(first_seed=10).draw(128)
    rollout(quads, start, watched, steps=200)
    for sequences in (
        np.stack(seen),
        noise(200, 128, 1, 0),
        raptor.policy.examples.observations,
        golden.inputs(raptor.policy, "evaluate")[0][:2048, np.newaxis],
    ):
        assert difference(raptor.program, raptor.fixed, sequences).max() <= 5e-3


def test_it_does_not_drift(raptor: Quantised) -> None:
    errors = difference(raptor.program, raptor.fixed, noise(5000, 32, 20, 1))
    windows = errors.reshape(5, 1000).max(axis=1)
    assert windows.max() <= 5e-3
    assert windows[-1] <= 1.5 * windows[0]


def test_it_flies_as_float_does(raptor: Quantised) -> None:
    suite = replace(Hover(), episodes=1024)
    ours = fly(suite, fixed_step(raptor.fixed), feedback="clamped").metrics
    theirs = fly(suite, float_step(raptor.program), feedback="clamped").metrics
    assert abs(ours["survival"] - theirs["survival"]) <= 0.003
    assert ours["final_error_mean"] <= 0.065


def test_batches_and_single_steps_agree(raptor: Quantised) -> None:
    batch = noise(20, 6, 1, 2)
    together = fixed_step(raptor.fixed)
    alone = [fixed_step(raptor.fixed) for _ in range(6)]
    for seen in batch:
        each = [step(one[np.newaxis])[0] for step, one in zip(alone, seen, strict=True)]
        assert np.array_equal(together(seen), np.stack(each))
