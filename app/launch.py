"""`tierwise serve`: the embedded Redis and `serve run`, started together, watched, and stopped together."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil

from app import bundled
from app.config import ServeFile
from app.embedded_redis import EmbeddedRedis
from app.errors import ConfigError
from app.isolation import Isolation
from app.nvidia import gpus
from app.placement import claims, shortage
from app.serve_api import ServeAPI


class Launcher:
    """Starts the gateway of a file and stops everything it started.

    Args:
        say: Prints a line of progress.
    """

    def __init__(self, file: ServeFile, say: Callable[[str], None], state: Path | None = None) -> None:
        self._file = file
        self._say = say
        self._state = state or bundled.run_dir(file.port)
        self._isolation = Isolation()
        self._redis: EmbeddedRedis | None = None
        self._serve: subprocess.Popen[bytes] | None = None
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
        if (wanted := claims(self._file)) and (short := shortage(wanted, len(gpus()))):
            raise ConfigError(f"{short} of this machine; lower a `gpu_fraction` or `min_replicas`")
        self._state.mkdir(parents=True, exist_ok=True)
        environment = self._isolation.open(self._file.host)
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
        self._isolation.close(children)
        if self._redis is not None:
            self._redis.stop()
            self._redis = None

    def _drain(self, timeout_s: float = 120) -> None:
        """Take no more connections and wait for the requests that are on their way; an interrupt ends the wait."""
        sockets = self._haproxy_sockets()
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
        return len(list(filter(self._isolation.started, haproxies))) > len(self._haproxy_sockets())

    def _haproxy_sockets(self) -> list[Path]:
        return list(self._isolation.folder.glob("*/admin.sock"))

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
        return [*redis, *self._isolation.processes()]

    @property
    def redis_pid(self) -> int | None:
        """The embedded Redis' process, if there is one."""
        return self._redis.pid if self._redis else None

    @property
    def redis_url(self) -> str | None:
        """Where the embedded Redis is, if there is one."""
        return self._redis.url if self._redis else None

    def requests_under_way(self) -> int:
        """Count the requests that have come and are not answered."""
        return sum(map(_requests_under_way, self._haproxy_sockets()))


# `serve run`, by the interpreter that runs us, wherever its scripts are
_SERVE = "import sys; from ray.serve.scripts import cli; sys.argv[0] = 'serve'; cli()"


def ready(url: str) -> bool:
    """Whether the gateway at a URL answers, and all of its parts are up."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as response:
            return bool(json.load(response)["status"] == "ready")
    except (OSError, ValueError, KeyError):
        return False


def samples(url: str, metrics: str, timeout_s: float) -> Iterator[tuple[str, Mapping[str, str], float]]:
    """Yield the metric, the labels and the value of each sample, as the gateway's replicas exported it last.

    Args:
        metrics: A regular expression for their names.

    Raises:
        OSError: The gateway at the URL did not answer.
    """
    with urllib.request.urlopen(f"{url}/metrics", timeout=timeout_s) as response:
        text = response.read().decode()
    for metric, labels, value in re.findall(rf"(?m)^({metrics}){{(.*)}} (\S+)$", text):
        yield metric, dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)


def served_at(log: Path) -> ServeAPI | None:
    """Return the interface of the Ray that writes a log; None if it has not said where that is."""
    found = re.search(rb"dashboard at.*?(http://[\d.]+:\d+)", log.read_bytes() if log.is_file() else b"")
    return ServeAPI(found[1].decode()) if found else None


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
