"""What is done to the configuration of Serve's HAProxy, by the HAProxy that comes with Ray."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from app.isolation import write_haproxy
from app.ports import free_port

# As Serve writes it, less what does not matter here.
CONFIG = """
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend prometheus
    bind :{metrics}
    http-request return status 200
frontend http_frontend
    bind *:{port}
    http-request return status 204
"""


@pytest.mark.parametrize(("host", "bound"), [("127.0.0.1", "bind 127.0.0.1:{port}"), ("0.0.0.0", "bind *:{port}")])
def test_haproxy_takes_the_edited_file_and_it_is_edited_once(tmp_path: Path, host: str, bound: str) -> None:
    port, file = free_port(), tmp_path / "haproxy.cfg"
    file.write_text(CONFIG.format(port=port, metrics=free_port()))
    haproxy = write_haproxy(tmp_path / "haproxy", host)
    for _ in range(2):
        done = subprocess.run([haproxy, "-c", "-f", file], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in file.read_text().splitlines()]
    at = lines.index(bound.format(port=port))
    assert lines[at + 1] == "option http-buffer-request"  # else it asks no other replica
    assert sum("del-header" in line for line in lines) == 3
    assert lines.count("option http-buffer-request") == 1
