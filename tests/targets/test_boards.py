"""The rows of cores and boards: complete, consistent, and told as they are."""

from typing import get_args

import pytest

from edgerl.errors import UserError
from edgerl.explanation import explain_target
from edgerl.targets import Region, find_target, target, targets
from edgerl.targets.model import Target, Verification, cores

ROWS = list(targets().values())
BOARDS = [row for row in ROWS if row.name not in cores() and row.name != "host"]
PROMISED = {
    "crazyflie21", "betaflight-f4", "betaflight-f7", "betaflight-h7", "pixhawk-6x", "pico", "pico2",
    "nrf52840-dk", "nucleo-h743", "esp32-c3", "esp32-s3", "arduino-nano-33-ble", "teensy41",
    "raspberry-pi", "jetson-orin", "host",
}  # fmt: skip


def changed(of: str, /, **more: object) -> Target:
    return Target.model_validate({**dict(target(of)), **more})


def test_every_promised_board_is_there():
    assert set(targets()) >= PROMISED


@pytest.mark.parametrize("row", BOARDS, ids=lambda row: row.name)
class TestBoard:
    def test_says_where_its_memory_map_is_from(self, row):
        assert row.about and row.source and row.clock_hz

    def test_keeps_its_bootloader(self, row):
        assert row.flash and row.application and row.ram
        assert row.flash.holds(row.application) and not row.flash.meets(row.ram)

    def test_has_a_machine_or_a_stand_in_of_the_same_core(self, row):
        if row.native or row.core.hosting == "linux":
            assert not row.stand_in
            return
        assert bool(row.qemu_machine) != bool(row.stand_in)
        other = target(row.stand_in or row.name)
        assert other.core == row.core and other.qemu_machine

    def test_claims_no_more_than_its_core_shows(self, row):
        bare = targets().get(row.core.name)
        ranks = get_args(Verification)
        most = bare.verified_by if bare else "host-only"
        assert ranks.index(row.verified_by) >= ranks.index(most)

    def test_is_explained_whole(self, row):
        told = explain_target(row)
        assert told["source"] == row.source
        assert told["verified by"].startswith(row.verified_by)
        if row.stand_in:
            assert target(row.stand_in).about in told["stand-in"]
        if row.core.hosting == "linux":
            assert "flash" not in told and f"{row.application.base:#x}" in told["program"]
        else:
            assert f"{row.application.base:#010x}" in told["application"]


def test_a_missing_tool_is_told_with_the_command_that_installs_it(monkeypatch):
    row = target("pico")
    assert explain_target(row)["zig"].startswith("here: zig")
    monkeypatch.setattr("shutil.which", lambda name: None)
    told = explain_target(row)
    assert told["QEMU"].startswith("missing: qemu-system-arm")
    assert told["gcc"] == "missing: apt-get install gcc-arm-none-eabi"


def test_what_nothing_here_can_run_is_built_for_this_machine():
    assert target("esp32-s3").native
    assert target("esp32-s3").built_for.architecture == "native"
    assert target("pico").built_for == target("pico").core


def test_unknown_names_get_the_nearest():
    with pytest.raises(UserError, match="'teensy4'; did you mean 'teensy41'"):
        find_target("teensy4")


# What no row may say


def test_regions():
    one = Region(base=0x1000, size=0x100)
    assert str(one) == "0x00001000 to 0x000010ff"
    assert one.meets(Region(base=0x10FF, size=1)) and not one.meets(Region(base=0x1100, size=1))
    assert one.holds(one) and not one.holds(Region(base=0x1000, size=0x101))
    Region(base=0xFFFFFFFF, size=1)
    with pytest.raises(ValueError, match="ends beyond the last address"):
        Region(base=0xFFFFFFFF, size=2)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"ram": Region(base=0x080FFFFF, size=16)}, "0x080fffff to 0x0810000e, overlap"),
        ({"application": Region(base=0x08000000, size=0x200000)}, "leaves the flash"),
        ({"application": Region(base=0x08000010, size=0x100)}, "no vector table"),
        ({"application": None}, "come together"),
        ({"verified_by": "relinked-stand-in"}, "no stand_in"),
        ({"name": "../up"}, "not a usable name"),
        ({"name": "a" * 41}, "not a usable name"),
        ({"name": "a--b"}, "not a usable name"),
        ({"about": "two\nlines"}, "one line"),
        ({"qemu_machine": "x,kernel=y"}, "names no QEMU machine"),
        ({"clock_hz": -1}, "clock_hz"),
    ],
    ids=lambda value: "" if isinstance(value, str) else ",".join(value),
)
def test_rows_that_cannot_be(more, says):
    with pytest.raises(ValueError, match=says):
        changed("crazyflie21", **more)


def test_an_avr_has_two_address_spaces():
    row = target("atmega2560")
    assert changed("atmega2560", ram=row.flash).ram == row.flash
