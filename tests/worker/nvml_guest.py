"""A guest's loopback service whose Simulated driver tests bend, and the SimulatedNvml loaded as a worker loads NVML."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer

import pytest

from e2e.simtd import nvml
from e2e.simtd.gpu_pool import GpuPool
from e2e.simtd.nvml import SimulatedDriver
from e2e.simtd.platform import Answering

POOL = GpuPool(2)
DEVICES = POOL.take()
PORT_VARIABLE = "SIMULATED_NVML_PORT"


class NvmlGuest:
    """The service.  driver: what it answers from.  returning: while it is not set, nothing is answered.  report_seconds: for a report."""

    def __init__(self, driver: SimulatedDriver) -> None:
        self.driver = driver
        self.asked: list[str] = []
        self.answered = 0
        self.called = threading.Event()
        self.returning = threading.Event()
        self.returning.set()
        self.report_seconds = 0.0
        outer = self

        class Handler(Answering):
            def do_GET(self) -> None:
                outer.asked.append(self.path.removeprefix(nvml.PATH).partition("?")[0])
                outer.called.set()
                outer.returning.wait()
                if outer.asked[-1] == "report":
                    time.sleep(outer.report_seconds)
                said = outer.driver.answer(self.command, self.path)
                self.answer(said.status, said.body, **said.headers)
                outer.answered += 1

            do_POST = do_GET

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port


@contextmanager
def nvml_guest(driver: SimulatedDriver) -> Iterator[NvmlGuest]:
    """Serve it."""
    guest = NvmlGuest(driver)
    threading.Thread(target=guest.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield guest
    finally:
        guest.returning.set()
        guest.server.shutdown()
        guest.server.server_close()


@contextmanager
def loaded(monkeypatch: pytest.MonkeyPatch, driver: SimulatedDriver) -> Iterator[NvmlGuest]:
    """Serve it to this process, in which the dynamic linker from now on knows the library by its name, as in a guest."""
    ctypes.CDLL(str(nvml.library()))
    with nvml_guest(driver) as guest:
        monkeypatch.setenv(PORT_VARIABLE, str(guest.port))
        yield guest
