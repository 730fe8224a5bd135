"""A gateway on three Ray nodes, parts of which are killed and come back."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from app.benchmark.fates import kill, replica_pids
from app.benchmark.redis_cluster import RedisCluster
from app.config import ServeFile
from app.errors import ConfigError
from app.isolation import Isolation
from app.launch import ready
from app.serve_api import ServeAPI

_REPLICAS = {"ingress replica": "Ingress", "local-tier replica": "Tier-local"}
PARTS = ("worker node", "Serve's controller", *_REPLICAS, "Redis master")
_PATIENCE_S = 300.0
_LEDGER = b"{ledger}"  # the master that is killed has these keys


class ThreeNodes:
    """A head without replicas and two workers, inside a `with` block.

    Args:
        say: Prints a line of progress.
    """

    def __init__(self, file: ServeFile, redis: RedisCluster, say: Callable[[str], None]) -> None:
        self._file = file
        self._redis = redis
        self._say = say
        self._isolation = Isolation()
        self._ray: subprocess.Popen[str] | None = None
        self._api = ServeAPI("")

    def __enter__(self) -> Self:
        environment = self._isolation.open(self._file.host)
        del environment["RAY_ADDRESS"]
        environment |= {"RAY_AUTH_MODE": "disabled", self._url_env(): self._redis.url}
        self._ray = subprocess.Popen(
            [sys.executable, "-m", "app.benchmark.nodes", str(self._file.path)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            self._say("starting three Ray nodes")
            self._api = ServeAPI(self._line("http://"))
            self._api.deploy(self._file.raw)
            self._say(f"starting the gateway; Ray's dashboard is {self._api.address}")
            self._wait_until_whole()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End everything."""
        if self._ray is not None:
            self._ray.kill()
            self._ray.communicate()
        self._isolation.close()

    def kill(self, part: str) -> None:
        """Kill one of PARTS, without a warning."""
        self._say(f"killing: {part}")
        if part == "worker node":
            self._tell("kill")
        elif part == "Redis master":
            kill([pid for pid in [self._redis.master_of(_LEDGER).pid] if pid])
        elif part in _REPLICAS:
            kill(replica_pids(self._api, _REPLICAS[part])[:1])
        else:
            titles = {process: " ".join(process.cmdline()) for process in self._isolation.processes()}
            kill(process.pid for process, title in titles.items() if title.startswith("ray::ServeController"))

    def heal(self, part: str) -> float:
        """Return after how many seconds all replicas were there again; a node that was killed is replaced first."""
        started = time.monotonic()
        if part == "worker node":
            self._tell("add")
        self._wait_until_whole()
        return round(time.monotonic() - started, 1)

    def _url_env(self) -> str:
        assert self._file.config.redis is not None
        return self._file.config.redis.url_env

    def _tell(self, command: str) -> None:
        assert self._ray is not None
        assert self._ray.stdin is not None
        self._ray.stdin.write(f"{command}\n")
        self._ray.stdin.flush()
        self._line("done")

    def _line(self, start: str) -> str:
        """Return the next line of that beginning that the nodes' process says."""
        assert self._ray is not None
        assert self._ray.stdout is not None
        for line in self._ray.stdout:
            if line.startswith(start):
                return line.strip()
        raise ConfigError("the Ray nodes ended by themselves")

    def _wait_until_whole(self) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not (self._replicas_run() and ready(self._file.url)):
            if time.monotonic() > deadline:
                raise ConfigError(f"the gateway is not whole after {_PATIENCE_S:g} s: {self._api.applications()}")
            time.sleep(1)

    def _replicas_run(self) -> bool:
        """Whether every deployment has the replicas that it is to have."""
        try:
            (application,) = self._api.applications().values()
        except (OSError, ValueError, KeyError):
            return False
        deployments = application["deployments"].values()
        return application["status"] == "RUNNING" and all(
            deployment["status"] == "HEALTHY"
            and sum(replica["state"] == "RUNNING" for replica in deployment["replicas"])
            == deployment["target_num_replicas"]
            for deployment in deployments
        )
