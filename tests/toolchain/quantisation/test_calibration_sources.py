"""Where calibrations come from, how ranges are told from them, and bad files."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgerl.errors import UserError
from edgerl.policies import Policy, load
from edgerl.policies.graph import GraphBuilder
from edgerl.policies.plants import Hover
from edgerl.policies.spec import PolicySpec, Signal
from edgerl.toolchain import quantisation
from edgerl.toolchain.ir import Program
from edgerl.toolchain.lowering import lower
from edgerl.toolchain.quantisation.calibration import Calibration, checked, extents
from edgerl.toolchain.quantisation.limiting import METHODS, Method
from edgerl.toolchain.quantisation.sources import calibration_for, flown, golden_sequences

SPEC = PolicySpec(
    name="net",
    observation=(
        Signal(name="place", size=2, range=(-4.0, 4.0)),
        Signal(name="speed", size=2, range=(-3.0, 3.0)),
    ),
    action=(Signal(name="motor", size=2, range=(-1.0, 1.0)),),
)


@pytest.fixture(scope="module")
def policy() -> Policy:
    build, rng = GraphBuilder(), np.random.default_rng(0)
    x = build.input("observation", 4)
    hidden = build.activation(build.dense(x, rng.normal(size=(6, 4)).astype(np.float32)), "tanh")
    last = build.dense(hidden, rng.normal(size=(2, 6)).astype(np.float32))
    build.output(last, "action", 2)
    return Policy(build.finished(), SPEC)


@pytest.fixture(scope="module")
def program(policy: Policy) -> Program:
    return lower(policy)


def samples(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(*shape, 4)).astype(np.float32)


def saved(path: Path, array: object, **options: bool) -> Path:
    np.save(path, array, **options)  # type: ignore[arg-type]  # bad on purpose
    return path


@pytest.mark.parametrize("shape", [(300,), (40, 8)])
@pytest.mark.parametrize("kind", ["<f4", ">f8", "<f2"])
def test_a_user_s_recording(
    policy: Policy, program: Program, tmp_path: Path, shape: tuple[int, ...], kind: str
) -> None:
    path = saved(tmp_path / "seen.npy", (3.0 * samples(*shape)).astype(kind))
    calibration = calibration_for(policy, program, path)
    assert len(calibration.recordings) == len(golden_sequences(policy)) + 1
    given = np.asarray(calibration.recordings[-1])
    assert given.shape == (shape[0], shape[1] if len(shape) > 1 else 1, 4)
    assert given.dtype == np.float32 and calibration.remarks == ()
    assert quantisation.require_no_overflow(quantisation.quantise(program, calibration)) < 1.0


def test_it_is_the_same_every_time(policy: Policy, program: Program) -> None:
    first, second = (calibration_for(policy, program) for _ in range(2))
    for ours, theirs in zip(first.recordings, second.recordings, strict=True):
        assert np.array_equal(ours, theirs)


def archive(path: Path) -> Path:
    with path.open("wb") as file:
        np.savez(file, observations=samples(300))
    return path


def huge(path: Path) -> Path:
    """A header that promises a terabyte."""
    data = io.BytesIO()
    np.save(data, samples(2))
    path.write_bytes(data.getvalue().replace(b"(2, 4), }      ", b"(99999999999, 4), }"[:15]))
    return path


def objects(path: Path) -> Path:
    return saved(path, np.array([{"not": "numbers"}], dtype=object), allow_pickle=True)


def written(data: bytes) -> object:
    def write(path: Path) -> Path:
        path.write_bytes(data)
        return path

    return write


BAD = {
    "absent": (lambda path: path, "cannot be read"),
    "a folder": (lambda path: path.parent, "not a file"),
    "text": (written(b"1.0, 2.0\n"), "not a .npy file of numbers"),
    "empty": (written(b""), "not a .npy file of numbers"),
    "cut short": (written(b"\x93NUMPY\x01\x00v\x00{'descr'"), "not a .npy file of numbers"),
    "objects": (objects, "not a .npy file of numbers"),
    "promises": (huge, "not a .npy file of numbers"),
    "an archive": (archive, "an archive of arrays"),
    "words": (lambda path: saved(path, np.array(["a", "b"])), "has elements of type <U1"),
    "complex": (lambda path: saved(path, 1j * samples(300)), "has elements of type complex64"),
    "wide": (lambda path: saved(path, samples(300, 3, 2)), r"its shape is \[300, 3, 2, 4\]"),
    "other": (lambda path: saved(path, np.zeros((300, 5))), r"its shape is \[300, 5\]"),
    "nan": (lambda path: saved(path, samples(300) / 0.0), "is (-)?inf; leave out"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused_in_one_line(
    policy: Policy, program: Program, tmp_path: Path, kind: str
) -> None:
    make, message = BAD[kind]
    with np.errstate(divide="ignore"):
        path = make(tmp_path / "seen.npy")  # type: ignore[operator]  # each makes a path
    with pytest.raises(UserError, match=message) as caught:
        calibration_for(policy, program, path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_nothing_is_unpickled(policy: Policy, program: Program, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]  # a pickle's

    path = saved(tmp_path / "trap.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"not a \.npy file"):
        calibration_for(policy, program, path)
    assert not (tmp_path / "sprung").exists()


def test_a_signal_that_never_changes_is_remarked_on(
    policy: Policy, program: Program, tmp_path: Path
) -> None:
    still = samples(300)
    still[:, 2:] = 0.5
    path = saved(tmp_path / "seen.npy", still)
    (remark,) = calibration_for(policy, program, path).remarks
    assert "'speed' never changes in it" in remark and str(path) in remark
    (remark,) = checked(program, still, SPEC).remarks
    assert "'speed' never changes" in remark and "[-3, 3]" in remark
    assert extents(program, still, SPEC)["observation"].size[2:].tolist() == [3.0, 3.0]


def test_an_outlier_is_remarked_on(program: Program) -> None:
    seen = samples(4096)
    assert checked(program, seen, SPEC).remarks == ()
    seen[77, 1] = 900.0
    (remark,) = checked(program, seen, SPEC).remarks
    assert "signal 'place' reaches 900" in remark and "percentile" in remark


@pytest.mark.parametrize("method", METHODS)
def test_methods_limit_outliers_or_do_not(program: Program, method: Method) -> None:
    seen = samples(1 << 14)
    whole = extents(program, Calibration((seen,), method, 99.9))["observation"].size
    # A limit is the upper edge of a bin of 2 %.
    wanted = np.quantile(np.abs(seen), 0.999, axis=0)
    if method == "percentile":
        assert (whole >= wanted).all() and (whole <= 1.04 * wanted).all()
    elif method == "minmax":
        assert np.array_equal(whole, np.abs(seen).max(axis=0))
    seen[5, 0] = 1e6
    far = extents(program, Calibration((seen,), method, 99.9))["observation"].size
    assert far[0] == 1e6 if method == "minmax" else far[0] < 1.05 * whole[0] or method == "mse"
    assert np.allclose(far[1:], whole[1:])


@pytest.mark.parametrize("bits", [4, 8])
def test_the_least_error_is_the_least(program: Program, bits: int) -> None:
    """Of all limits, rounded and clipped by brute force, none is better by more than a bin."""
    seen = np.random.default_rng(0).standard_t(3.0, size=(1 << 13, 4)).astype(np.float32)
    found = extents(program, Calibration((seen,), "mse"), bits=bits)["observation"].size

    def error(limit: float, x: np.ndarray) -> float:
        step = limit * 2.0 ** (1 - bits)
        return float(np.mean((np.clip(np.rint(x / step) * step, -limit, limit) - x) ** 2))

    for k in range(4):
        x = seen[:, k].astype(np.float64)
        limits = np.abs(x).max() * 2.0 ** -np.arange(0.0, 8.0, 0.1)
        assert error(float(found[k]), x) <= 1.1 * min(error(float(t), x) for t in limits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "minimax"}, "did you mean 'minmax'"),
        ({"percentile": 0.99}, "percentile 0.99 is not above 50"),
        ({"percentile": np.nan}, "percentile nan is not above 50"),
    ],
)
def test_a_bad_method(program: Program, change: dict[str, object], message: str) -> None:
    given = replace(Calibration((samples(300),)), **change)  # type: ignore[arg-type]  # bad on purpose
    with pytest.raises(UserError, match=message):
        quantisation.quantise(program, given)


def test_batches_do_not_matter(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = (samples(50, 3), samples(20, 2), samples(70))
    whole = extents(program, Calibration(seen, "percentile", 95.0))
    monkeypatch.setattr("edgerl.toolchain.quantisation.watching._MOST_ROWS", 2)
    parts = extents(program, Calibration(seen, "percentile", 95.0))
    for name, extent in whole.items():
        assert np.array_equal(extent.low, parts[name].low)
        assert np.array_equal(extent.high, parts[name].high)


def test_flights_are_of_seeds_that_no_report_uses() -> None:
    raptor = load("raptor")
    program = lower(raptor)
    seen = flown(program, raptor.spec, episodes=2)
    assert seen.shape == (Hover().steps, 2, 22)
    _, start = Hover().draw(2)
    assert not np.allclose(seen[0, :, :3], start.state[:3].T.astype(np.float32))
    calibration = calibration_for(raptor, program, episodes=2)
    assert np.array_equal(calibration.recordings[-1], seen)
