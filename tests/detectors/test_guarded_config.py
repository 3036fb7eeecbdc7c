"""The settings of a guarded detector."""

from __future__ import annotations

from typing import Any

import pytest
from toy_guarded import guarded
from toy_models import detector as learned_detector

from advrad.detectors.feature_config import FeatureConfig
from advrad.detectors.guarded_config import BEND, AttackableConfig, GuardedConfig, HalfTest
from advrad.detectors.loading import kind_of
from advrad.detectors.reference import ReferenceConfig
from advrad.errors import CheckpointError, ConfigError

TEST = {"threshold": 1.0, "false_alarm_rate": 0.05, "n": 39, "scores": [0.0, 1.0], "slope": 2.0}


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    config = guarded().config
    learned = learned_detector(calibrated=False).config
    reference = ReferenceConfig(what="python", target="/parts/mine.py:score", sha256="0" * 64, file_bytes=8)
    others = (
        AttackableConfig(name="features", detector=FeatureConfig()),
        AttackableConfig(name="learned", detector=learned),
        AttackableConfig(name="mine", detector=reference),
        AttackableConfig(name="here"),
    )
    changed = {"others": others, "tests": (*config.tests, *config.tests[1:] * 3), "ceiling": -0.7}
    made = GuardedConfig.model_validate(dict(config) | changed)
    return made.model_dump(mode="json")


def test_every_kind_of_half_is_read_back_as_it_was_written(values: dict[str, Any]) -> None:
    config = GuardedConfig.parse(values)
    assert config.model_dump(mode="json") == values
    kinds = [type(part.detector).__name__ for part in config.others]
    assert kinds == ["FeatureConfig", "DetectorConfig", "ReferenceConfig", "NoneType"]
    assert config.names == ("memory", "features", "learned", "mine", "here")
    assert config.tests == GuardedConfig.parse(values).tests and config.ceiling == -0.7
    assert config.framing == config.memory.framing and config.image_size_px == 32
    assert kind_of(values, "config.json").words == "a guarded detector"


def test_it_is_described_half_by_half(values: dict[str, Any]) -> None:
    lines = GuardedConfig.parse(values).describe()
    assert lines[0] == "defective if the memory or another half says so; its verdicts are proven within 2/255"
    for start in ("memory: compares patches", "features: compares features", "learned: ", "mine: ", "here: "):
        assert any(line.startswith(start) for line in lines)
    assert "up to -0.7" in lines[-1]
    assert "proven" not in GuardedConfig.parse(values | {"radius": 0.0}).describe()[0]


def test_a_half_of_an_unknown_kind_is_one_clear_line(values: dict[str, Any]) -> None:
    others = [{"name": "tomorrow", "detector": {"kind": "telepathy", "depth": 3}}]
    with pytest.raises(CheckpointError) as caught:
        GuardedConfig.parse(values | {"others": others, "tests": []}, "run/config.json")
    assert str(caught.value) == (
        "run/config.json: holds a half of kind 'telepathy', which this advrad does not know; install a newer advrad"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ceiling": BEND / 2}, "ceiling must not lie between 0 and 0.1"),
        ({"radius": -0.1}, "must be at least 0"),
        ({"tests": [TEST]}, "must be 5, one for each half"),
        ({"others": []}, "at least 1"),
        ({"others": [{"name": "a"}, {"name": "a"}], "tests": []}, "needs a name of its own"),
        ({"others": [{"name": "memory"}], "tests": []}, "cannot be the name of a half"),
        ({"others": [{"name": "a: b"}], "tests": []}, "cannot be the name of a half"),
        ({"kind": "closed_form"}, "is unknown; choose guarded"),
        ({"others": "none"}, "tuple"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    change: dict[str, Any], message: str, values: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=message):
        GuardedConfig.parse(values | change, "config.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slope": 0.0}, "above 0"),
        ({"heat_low": 1.0, "heat_high": 1.0}, "heat_high must be above heat_low"),
        ({"scores": [1.0, 0.0]}, "scores must rise"),
        ({"n": 1}, "scores must rise, and be at most n"),
        ({"threshold": float("nan")}, "finite"),
    ],
)
def test_tests_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    assert HalfTest.parse(dict(TEST)).n == 39
    with pytest.raises(ConfigError, match=message):
        HalfTest.parse(TEST | change, "config.json")
