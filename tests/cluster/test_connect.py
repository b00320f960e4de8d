"""What Ray's client raises becomes one line that says what to do; a token that is there is used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from weakspot.cluster import connect
from weakspot.errors import UserError

AT = "http://there:8265"
AuthenticationError = type("AuthenticationError", (Exception,), {})
JSONDecodeError = type("JSONDecodeError", (ValueError,), {})
ReadTimeout = type("ReadTimeout", (Exception,), {})


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            AuthenticationError("401"),
            "refuses the token (RAY_AUTH_MODE here is disabled): put the cluster's into RAY_AUTH_TOKEN",
        ),
        (ConnectionError("refused"), f"no cluster answers at {AT}: start one, or give --address"),
        (ReadTimeout("slow"), f"no cluster answers at {AT}"),
        (RuntimeError("Request failed with status code 404: no"), f"what answers at {AT} is no job server of Ray"),
        (JSONDecodeError("Expecting value"), "is no job server of Ray"),
        (KeyError("ray_version"), "is no job server of Ray"),
        (RuntimeError("Job ws does not exist"), f"Job ws does not exist: `weakspot jobs` lists what the cluster at {AT} knows"),
        (ImportError("this may require the ray[default] installation"), connect.NEEDS),
        (RuntimeError("the disk\nis full"), f"the cluster at {AT} refused: the disk is full"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_whatever_it_raises_is_one_line(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(UserError) as caught, connect.told(AT):
        raise error
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


def test_what_is_ours_already_is_left_as_it_is() -> None:
    ours = UserError("say --job")
    with pytest.raises(UserError) as caught, connect.told(AT):
        raise ours
    assert caught.value is ours


def test_a_long_answer_is_cut() -> None:
    with pytest.raises(UserError) as caught, connect.told(AT):
        raise RuntimeError("x" * 10_000)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("given", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "file", None])
def test_a_token_that_is_there_is_used(given: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray reads its token only if it is told the mode, and complains of a refusal otherwise."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "set, so that it is put back")
        monkeypatch.delenv(name)
    if given == "file":
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray/auth_token").write_text("secret")
    elif given:
        monkeypatch.setenv(given, "secret")
    connect.use_token_if_there_is_one()
    assert os.environ.get("RAY_AUTH_MODE") == ("token" if given else None)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    connect.use_token_if_there_is_one()
    assert os.environ["RAY_AUTH_MODE"] == "disabled", "what the user says goes before"
