"""A request to a service that nobody has to trust ends at its deadline, whatever the step that waits."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from chrysalis.attestation.anchor import INTEL_ANCHOR
from chrysalis.attestation.collateral_documents import DocumentKind
from chrysalis.broker.collateral_reasons import DocumentKey, Failure
from chrysalis.broker.collateral_settings import CollateralSettings
from chrysalis.broker.pccs import PccsFetcher
from chrysalis.wire import bounded_http
from chrysalis.wire.bounded_http import Bounds, HttpFault, Request

LONG_SECONDS = 20
"""What the name server takes where nobody ends it; the deadline is one second."""


class NameServer:
    """One that does not answer: the lookup is over when the test ends, or after LONG_SECONDS."""

    def __init__(self) -> None:
        self.asked, self.gave_up, self._over = threading.Event(), threading.Event(), threading.Event()

    def getaddrinfo(self, *_arguments: object, **_named: object) -> list[object]:
        self.asked.set()
        self._over.wait(LONG_SECONDS)
        self.gave_up.set()
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    def end(self) -> None:
        self._over.set()


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server.getaddrinfo)
    yield server
    server.end()


def _of_a_service() -> str:
    [found] = bounded_http.fetch_all([Request("https://service.invalid/")], Bounds(1.0, 1024))
    return found.fault.value if isinstance(found, HttpFault) else ""


def _of_a_pccs() -> str:
    key = DocumentKey(INTEL_ANCHOR.sha256, DocumentKind.ROOT_CRL)
    fetcher = PccsFetcher(CollateralSettings(url="https://pccs.invalid/", timeout_seconds=1))
    found = fetcher.fetch([key], INTEL_ANCHOR)[key]
    return found.reason.value if isinstance(found, Failure) else ""


@pytest.mark.parametrize("ask", [_of_a_service, _of_a_pccs])
def test_a_name_server_that_does_not_answer_is_not_waited_for(silent: NameServer, ask: Callable[[], str]) -> None:
    assert ask() == "TimedOut"
    assert silent.asked.is_set()
    assert not silent.gave_up.is_set(), "the caller was held until the lookup ended"
