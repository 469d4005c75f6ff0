import pytest

from edgerl.toolchain.checks import measure


@pytest.fixture(autouse=True)
def few_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests look at what a check concludes; counting is tested where it is done."""
    monkeypatch.setattr(measure, "COUNTED_INPUTS", 64)
    monkeypatch.setattr(measure, "_STEPS_COUNTED", 16)
