"""Ports that programs are told to listen on."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from e2e import ports


def test_no_port_is_given_twice_nor_one_that_an_outgoing_connection_may_take() -> None:
    given = [ports.free_port() for _ in range(50)]
    assert len(set(given)) == 50
    lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(1024 <= port < lowest_outgoing for port in given)


def test_a_port_that_is_taken_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", ports.free_port())) as held:
        taken = held.getsockname()[1]
        other = ports.free_port()
        monkeypatch.setattr(ports, "TRIES", 2)
        monkeypatch.setattr("e2e.ports.random.sample", lambda choices, count: [taken, other + 1])
        assert ports.free_port() == other + 1
        monkeypatch.setattr("e2e.ports.random.sample", lambda choices, count: [taken, other])
        with pytest.raises(OSError, match="no free port"):
            ports.free_port()
