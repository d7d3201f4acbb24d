"""The PLATFORMS setting: every entry can be built, and an incomplete one fails at start."""

import pytest

from config.settings import PLATFORMS
from platforms import Platform, forget_platforms, get_platform
from tests.helpers.manage import check


@pytest.mark.parametrize("name", PLATFORMS)
def test_every_platform_of_the_settings_can_be_built(name: str) -> None:
    forget_platforms()
    platform = get_platform(name, PLATFORMS)
    assert isinstance(platform, Platform)
    assert platform.name == name
    assert get_platform(name, PLATFORMS) is platform
    forget_platforms()


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("kserve", ["KSERVE_ADDRESS"]),
        ("k8s", ["K8SPLUGIN_ADDRESS"]),
        ("replicate", ["REPLICATE_APIKEY", "REPLICATE_MODEL_ID"]),
        ("runpod", ["RUNPOD_APIKEY", "RUNPOD_MODEL_ID"]),
    ],
)
def test_an_incomplete_platform_is_refused_at_start(name: str, needed: list[str]) -> None:
    status, said = check(ML_PLATFORM=name)
    assert status != 0
    assert said.count("(agent.E012)") == len(needed)
    assert all(f"{variable} is empty" in said for variable in needed)


def test_a_platform_with_all_it_needs_is_accepted() -> None:
    status, said = check(ML_PLATFORM="runpod", RUNPOD_APIKEY="k", RUNPOD_MODEL_ID="ep1")
    assert status == 0, said
