"""Ray Serve's own REST interface, on Ray's dashboard: what is deployed, and a new deployment."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import ConfigError


@dataclass(frozen=True)
class ServeAPI:
    """The interface of one Ray cluster.

    Args:
        address: Of the dashboard, as in `http://127.0.0.1:8265`.
    """

    address: str

    def applications(self) -> dict[str, Any]:
        """Return the state of each application by its name.

        Raises:
            OSError, ValueError, KeyError: Serve is not there yet.
        """
        applications: dict[str, Any] = json.loads(self._ask("GET"))["applications"]
        return applications

    def deploy(self, config: Mapping[str, Any]) -> None:
        """Ask Serve to become what a file of `configs/` says; what there is goes on until the new parts are ready.

        Raises:
            ConfigError: Serve refused it, or is not there.
        """
        # the addresses of its proxies cannot change while they run
        body = {key: value for key, value in config.items() if key not in ("http_options", "proxy_location")}
        try:
            self._ask("PUT", json.dumps(body).encode())
        except urllib.error.HTTPError as error:
            raise ConfigError(f"Ray Serve refused the deployment: {error.read().decode(errors='replace')}") from error
        except OSError as error:
            raise ConfigError(f"no Ray dashboard at {self.address}: {error}") from error

    def _ask(self, method: str, body: bytes | None = None) -> bytes:
        headers = {"authorization": f"Bearer {_token()}", "content-type": "application/json"}
        request = urllib.request.Request(f"{self.address}/api/serve/applications/", body, headers, method=method)
        with urllib.request.urlopen(request, timeout=5 if body is None else 60) as response:
            return bytes(response.read())


def _token() -> str:
    """Return the token that Ray made for its own interfaces."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return file.read_text("utf-8").strip() if file.is_file() else ""
