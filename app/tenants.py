"""Who is asking: API keys to tenants."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from app.errors import AuthenticationError, ConfigError
from app.section import Section

_LINE = re.compile(r"^([0-9a-f]{64})\s+([A-Za-z0-9][A-Za-z0-9._-]*)(\s+admin)?$")


class OpenTenants(Section):
    """No keys: everyone is one tenant. Refused on any address but loopback.

    Attributes:
        tenant: What that one is called.
    """

    kind: Literal["open"] = "open"
    tenant: str = "default"

    def build(self) -> Tenants:
        """Let everyone in as the one tenant."""
        return Tenants(None, self.tenant)


class KeyFileTenants(Section):
    """A file of lines `SHA-256 of the key, in hex` `tenant`; `#` starts a comment. `tierwise key TENANT` makes one.

    A line that ends in `admin` is a key that may manage the cache of every tenant.

    Attributes:
        file: Its path, on every node; a replica reads it when it starts and every ten seconds.
    """

    kind: Literal["keys"] = "keys"
    file: Path

    def build(self) -> Tenants:
        """Read the file.

        Raises:
            ConfigError: It cannot be read, has a malformed line or no key at all; the message names the line.
        """
        try:
            lines = self.file.expanduser().read_text("utf-8", "replace").splitlines()
        except OSError as error:
            raise ConfigError(f"tenants.file: cannot read `{self.file}`: {error.strerror}") from error
        keys: dict[str, str] = {}
        admins: set[str] = set()
        for number, line in enumerate(lines, 1):
            line = line.partition("#")[0].strip()
            if not line:
                continue
            match = _LINE.match(line)
            if match is None:
                raise ConfigError(
                    f"tenants.file: `{self.file}` line {number} is not `SHA-256 in hex, tenant` and perhaps `admin`; "
                    "add keys with `tierwise key TENANT --file FILE`"
                )
            keys[match[1]] = match[2]
            if match[3]:
                admins.add(match[1])
        if not keys:
            raise ConfigError(
                f"tenants.file: `{self.file}` has no keys; add one with `tierwise key TENANT --file FILE`"
            )
        return Tenants(keys, None, admins)


TenantsConfig = Annotated[OpenTenants | KeyFileTenants, Field(discriminator="kind")]


def key_hash(key: str) -> str:
    """Return a key as the file holds it. Keys are random and long, so a plain hash keeps them."""
    return hashlib.sha256(key.encode()).hexdigest()


def check_address(tenants: TenantsConfig, host: str | None) -> None:
    """Refuse to serve everyone on an address that others can reach.

    Args:
        host: What the proxies listen on, or None where none run.

    Raises:
        ConfigError: Open tenants on any address but loopback.
    """
    if isinstance(tenants, OpenTenants) and host not in (None, "127.0.0.1", "localhost", "::1"):
        raise ConfigError(
            f"tenants: `kind: open` needs no key, so it may only listen on 127.0.0.1, not on {host}; "
            "set `http_options.host: 127.0.0.1`, or `tenants: {kind: keys, file: ...}`"
        )


class Tenants:
    """Keys to tenants, or one tenant for everybody, who then is the admin too.

    Args:
        admins: Hashes of the keys that may manage the cache of every tenant.
    """

    def __init__(
        self, keys: Mapping[str, str] | None, everyone: str | None, admins: Collection[str] = frozenset()
    ) -> None:
        self._keys = keys or {}
        self._everyone = everyone
        self._admins = admins

    def take(self, other: Tenants) -> None:
        """Know the keys that another knows, and no more those that were known before."""
        self._keys, self._everyone, self._admins = other._keys, other._everyone, other._admins

    def is_admin(self, authorization: str | None) -> bool:
        """Whether an `Authorization` header, that `of` accepts, may manage the cache of every tenant."""
        key = (authorization or "").partition(" ")[2].strip()
        return self._everyone is not None or key_hash(key) in self._admins

    def of(self, authorization: str | None) -> str:
        """Return the tenant of an `Authorization` header.

        Raises:
            AuthenticationError: No key, or an unknown one.
        """
        if self._everyone is not None:
            return self._everyone
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise AuthenticationError("You did not provide an API key. Send the header `Authorization: Bearer KEY`.")
        tenant = self._keys.get(key_hash(key.strip()))
        if tenant is None:
            raise AuthenticationError("Incorrect API key provided. Ask the operator of this gateway for one.")
        return tenant
