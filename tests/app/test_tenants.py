from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import AuthenticationError, ConfigError
from app.tenants import KeyFileTenants, OpenTenants, Tenants, check_address, key_hash


def read(path: Path, text: str | bytes) -> Tenants:
    file = path / "tenants.keys"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return KeyFileTenants(file=file).build()


def test_a_key_of_the_file_is_its_tenant(tmp_path: Path) -> None:
    lines = f"# ours\n\n{key_hash('one')} acme\n{key_hash('two')}\tglobex  # until May\n{key_hash('three')} acme\n"
    tenants = read(tmp_path, lines)
    assert [tenants.of(f"Bearer {key}") for key in ("one", "two", "three")] == ["acme", "globex", "acme"]
    assert tenants.of("bearer  two ") == "globex"


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer  ", "Basic one", "one"])
def test_a_request_without_a_key_is_refused(tmp_path: Path, authorization: str | None) -> None:
    with pytest.raises(AuthenticationError, match="You did not provide an API key"):
        read(tmp_path, f"{key_hash('one')} acme").of(authorization)


@pytest.mark.parametrize("key", ["two", "One", key_hash("one")])
def test_an_unknown_key_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(AuthenticationError, match="Incorrect API key"):
        read(tmp_path, f"{key_hash('one')} acme").of(f"Bearer {key}")


@pytest.mark.parametrize(
    "line",
    [b"one acme", key_hash("one").encode(), key_hash("one").upper().encode() + b" acme", b"\xff\xfe"]
    + [key_hash("one").encode() + end for end in (b" a b", b" -acme")],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: bytes) -> None:
    with pytest.raises(ConfigError, match="line 3 is not"):
        read(tmp_path, f"# ours\n{key_hash('two')} acme\n".encode() + line)


@pytest.mark.parametrize("text", ["", "# none yet\n"])
def test_a_file_without_keys_lets_nobody_in_and_says_so(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="has no keys"):
        read(tmp_path, text)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read `.*missing.keys`: No such file"):
        KeyFileTenants(file=tmp_path / "missing.keys").build()


def test_without_keys_everyone_is_one_tenant() -> None:
    tenants = OpenTenants(tenant="us").build()
    assert {tenants.of(None), tenants.of("Bearer anything")} == {"us"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "gateway.example.com", ""])
def test_everyone_is_not_let_in_on_an_address_that_others_reach(host: str) -> None:
    with pytest.raises(ConfigError, match=r"may only listen on 127\.0\.0\.1"):
        check_address(OpenTenants(), host)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", None])
def test_everyone_is_let_in_on_loopback(host: str | None) -> None:
    check_address(OpenTenants(), host)


def test_keys_may_be_served_on_any_address() -> None:
    check_address(KeyFileTenants(file=Path("tenants.keys")), "0.0.0.0")


def test_a_line_that_ends_in_admin_is_an_admin_s_key(tmp_path: Path) -> None:
    tenants = read(tmp_path, f"{key_hash('one')} acme\n{key_hash('two')} acme admin  # ours\n")
    assert [tenants.is_admin(f"Bearer {key}") for key in ("one", "two", "three")] == [False, True, False]
    assert tenants.of("Bearer two") == "acme"
    assert OpenTenants().build().is_admin(None)
