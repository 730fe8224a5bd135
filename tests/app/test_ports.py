"""The ports of gateways that share a machine."""

from __future__ import annotations

import itertools
import socket

import pytest

from app import ports
from app.errors import ConfigError
from app.ports import PortBlock, free_port


def test_two_gateways_have_no_port_in_common_and_a_closed_one_leaves_its_own() -> None:
    first, second = PortBlock.claim(), PortBlock.claim()
    try:
        used = [port for block in (first, second) for port in taken(block)]
        assert len(set(used)) == len(used) > 2 * 300
        first.close()
        third = PortBlock.claim()
        assert third.first == first.first
        third.close()
    finally:
        first.close()
        second.close()


def taken(block: PortBlock) -> list[int]:
    settings = {name.removeprefix("RAY_SERVE_"): int(value) for name, value in block.environment().items()}
    ranges = [
        range(settings[f"DIRECT_INGRESS_MIN_{protocol}_PORT"], settings[f"DIRECT_INGRESS_MAX_{protocol}_PORT"] + 1)
        for protocol in ("HTTP", "GRPC")
    ]
    alone = [settings[f"FALLBACK_PROXY_{protocol}_PORT"] for protocol in ("HTTP", "GRPC")]
    return [port for ports in ranges for port in ports] + alone


def test_one_too_many_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_LAST", ports._FIRST)
    with pytest.raises(ConfigError, match="stop other gateways"):
        PortBlock.claim()


def test_a_free_port_is_nobody_elses_and_in_no_block(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free := free_port()))
        assert free in ports._SINGLE
        assert len({free, *(free_port() for _ in range(50))}) == 51  # though nobody listens on them yet
        monkeypatch.setattr(ports, "_turns", itertools.cycle([free]))
        with pytest.raises(ConfigError, match="every port from 32000"):
            free_port()
