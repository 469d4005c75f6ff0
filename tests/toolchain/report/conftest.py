"""A report as a real compile of a quadrotor policy gives it, from synthetic flights."""

import numpy as np
import pytest

from edgerl.policies.spec import PolicySpec, Signal, StateSignal
from edgerl.toolchain.report.model import (
    Certificate,
    ClosedLoop,
    LayerCost,
    Limit,
    Measured,
    Parity,
    PolicyFacts,
    Reference,
    Report,
    Spread,
    TensorRange,
)

STEPS, DT = 500, 0.01


def flights(seed: int, damping: float) -> np.ndarray:
    """Damped returns from a random start within half a metre, in a slow random wind: [64, T, 3]."""
    rng = np.random.default_rng(seed)
    position = rng.uniform(-0.5, 0.5, (64, 3))
    velocity = rng.uniform(-1.0, 1.0, (64, 3))
    wind = rng.normal(0.0, 0.25, (64, 3))
    seen = np.empty((64, STEPS, 3))
    for t in range(STEPS):
        wind = 0.99 * wind + rng.normal(0.0, 0.06, wind.shape)
        velocity = velocity + DT * (-9.0 * position - damping * velocity + wind)
        position = position + DT * velocity
        seen[:, t] = position
    return seen


def suite(name: str, seed: int, damping: float, survival: float) -> ClosedLoop:
    positions = flights(seed, damping)
    # One flight that is lost: it turns over after a second and falls away.
    fall = np.clip(np.arange(STEPS) - 100, 0, None)[:, None] * DT
    positions[3] += fall**2 * np.array([1.5, -0.8, -4.9])
    error = np.linalg.norm(positions, axis=2)
    quantile = {"p05": 0.05, "median": 0.5, "p95": 0.95}
    final = float(np.median(error[:, -100:]))
    return ClosedLoop(
        plant="quadrotor",
        suite=name,
        episodes=4096,
        seeds=(0, 1, 2, 3),
        on="host twin of the shipped binary",
        metrics={
            "survival": survival,
            "final_error_mean": final * 1.2,
            "final_error_median": final,
            "episode_length_mean": 483.2,
        },
        intervals={
            "survival": (survival - 0.006, survival + 0.006),
            "final_error_mean": (final * 1.15, final * 1.25),
        },
        paths=tuple(
            (f"quadrotor {i}", i != 3, tuple(tuple(p) for p in positions[i].tolist()))
            for i in range(6)
        ),
        error_over_time={
            key: tuple(np.quantile(error, q, axis=0).tolist()) for key, q in quantile.items()
        },
        dt=DT,
    )


@pytest.fixture
def spec() -> PolicySpec:
    return PolicySpec(
        name="raptor",
        licence="MIT",
        observation=(
            Signal(name="position_error", range=(-1000.0, 1000.0)),
            Signal(name="rotation_matrix"),
            Signal(name="linear_velocity"),
            Signal(name="angular_velocity"),
            Signal(name="previous_action", size=4),
        ),
        action=(
            Signal(
                name="motor",
                size=4,
                labels=("front_right", "back_right", "back_left", "front_left"),
                spin=(-1, 1, -1, 1),
            ),
        ),
        state=(StateSignal(name="hidden", size=16),),
        feedback="raw",
    )


@pytest.fixture
def report() -> Report:
    rng = np.random.default_rng(7)
    errors = (7.15e-7 * rng.beta(6.0, 3.0, 200)).tolist()
    return Report(
        policy=PolicyFacts("raptor", "b7" * 32, 2084, 1952),
        target="crazyflie21",
        format="f32",
        numerics="f32-fma-tile4-rational1",
        compiler="zig 0.16.0 (clang 21.1.0)",
        verified_by="same-binary",
        counter="unicorn, by basic block",
        measured=Measured(
            instructions=Spread(2718, 2718, 2718.0),
            step_overhead_instructions=164,
            cycles_model=7614,
            flash_bytes=12180,
            ram_bytes=136,
            state_bytes=136,
            stack_bytes=296,
            stack_painted_bytes=288,
            code_bytes=3392,
            weight_bytes=8272,
            table_bytes=384,
            layers=(
                LayerCost("dense_0", "dense + relu", "22 → 16", 512, 1472),
                LayerCost("gru_1", "gru", "16 + 16 → 16", 2046, 6528),
                LayerCost("dense_2", "dense", "16 → 4", 118, 272),
                LayerCost("state", "copy", "16", 42, 0),
            ),
        ),
        parity=Parity(True, 20000, ("host", "zig / unicorn", "gcc / QEMU")),
        reference=Reference("onnxruntime 1.23", max(errors), 20000, 100, tuple(errors)),
        examples=Reference("foundation-policy 1.0.2", 7.152557373046875e-7, 1000),
        closed_loop=(
            suite("hover, raw feedback", 1, 3.0, 0.9583),
            suite("hover, clamped feedback", 2, 4.2, 0.9541),
        ),
        certificates={
            "constant_instruction_count": Certificate(True, "measured", "20,000 steps, min = max"),
            "bounded_stack": Certificate("296 B", "proved", "call graph without recursion"),
            "no_heap": Certificate(True, "proved", "no allocator among the linked symbols"),
            "accumulator_overflow": Certificate(
                None, "not_applicable", "floating point throughout"
            ),
            "action_bounds": Certificate(
                {"motor": {"raw": (-4.5444, 4.5011), "saturated": (-1.0, 1.0)}},
                "proved",
                "interval analysis",
            ),
        },
        tensors=(
            TensorRange("relu_0", 16, "f32", (0.0, 31.3125), (0.0, 17.7)),
            TensorRange("hidden", 16, "i16", (-1.0, 1.0), (-0.5, 0.5), 15, 14, 16),
            TensorRange("cell", 16, "f32", None, (-3.0, 3.0)),
        ),
        limits=(
            Limit("instructions", 2718, "<= 2900", True),
            Limit("cycles_model", 7614, "<= 7800", True),
            Limit("flash_bytes", 12180, "<= 14.2 kB", True),
            Limit("ram_bytes", 136, "<= 136", True),
            Limit("static_ram_bytes", 0, "<= 0", True),
            Limit("step_overhead_instructions", 164, "<= 200", True),
            Limit("reference_max_abs_error", max(errors), "<= 2e-6", True),
            Limit("parity", True, "bit-exact", True),
            Limit("survival", 0.9583, ">= 0.95", True),
            Limit("final_error_mean", 0.0583, "<= 0.065", True),
        ),
        notes=("The spec names no licence for the example vectors.", "Rate assumed: 100 Hz."),
    )
