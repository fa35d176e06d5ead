"""SimulatedNvml: the library nvml.c, built for this machine, and what a domain's Simulated GPUs answer it.

The library stands where NVIDIA's driver library stands in a real guest, so the worker loads it as it loads that one.  What a
driver keeps for all programs of a domain, the ready state, is kept here; the GPUs' keys never leave the platform.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from e2e import cache
from e2e.simtd.gpu import GOOD, ReportShape, SimulatedDevice, pem
from e2e.simtd.runtime import NVML

SOURCE = Path(__file__).with_name("nvml.c")
PATH = "/simulated/nvml/"
NONCE_BYTES = 32
SUCCESS, INVALID_ARGUMENT, NOT_SUPPORTED = 0, 2, 3
ENVIRONMENT_SIMULATED = 1
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", "-shared", "-fPIC", f"-Wl,-soname,{NVML}")


def library() -> Path:
    """The compiled library, from the cache; raises OSError or CalledProcessError where there is no working C compiler."""

    def make(folder: Path) -> None:
        subprocess.run(["gcc", *FLAGS, "-o", folder / NVML, SOURCE], check=True, capture_output=True, text=True, timeout=60)

    return cache.entry("simulated-nvml", cache.key(SOURCE, " ".join(FLAGS), platform.machine()), make) / NVML


@dataclass(frozen=True)
class Answer:
    """What the library is told: a body, the code that its function returns, and the size that it states (None: the body's)."""

    body: bytes = b""
    code: int = SUCCESS
    size: int | None = None
    status: int = 200

    @property
    def headers(self) -> dict[str, str]:
        """The headers that carry code and size."""
        size = {} if self.size is None else {"Simulated-Nvml-Size": str(self.size)}
        return {"Simulated-Nvml-Return": str(self.code), **size}


@dataclass
class SimulatedDriver:
    """The driver of one domain, with what a driver remembers until it is loaded anew.  Tests bend its members."""

    devices: tuple[SimulatedDevice, ...]
    shape: ReportShape = GOOD
    confidential: bool = True
    devtools: bool = False
    protected_pcie: bool = False
    ready_once: bool = True
    """Whether GPUs that were ready and then were not may never be again, as in NVIDIA's drivers of today."""
    returns: Mapping[str, int] = field(default_factory=dict)
    """By the last part of a path (`system`, `report`, `certificates`, `ready`): the return code instead of an answer."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    ready: bool = False
    spent: bool = False
    history: list[bool] = field(default_factory=list)
    """Every ready state that was set."""

    def __post_init__(self) -> None:
        self.ready = self.ready or self.devtools  # in the developers' mode nobody has to allow work

    @property
    def protects(self) -> bool:
        """Whether confidential computing is on in either form."""
        return self.confidential or self.protected_pcie

    def answer(self, method: str, target: str) -> Answer:
        """What the library is told at this path."""
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        what = parts.path.removeprefix(PATH)
        if code := self.returns.get(what, SUCCESS):
            return Answer(code=code)
        if (method, what) == ("GET", "system"):
            confidential = self.confidential and not self.protected_pcie  # as the driver says it
            numbers = (len(self.devices), ENVIRONMENT_SIMULATED, confidential, self.devtools, self.protected_pcie, self.ready)
            return Answer(" ".join(str(int(number)) for number in numbers).encode())
        if not self.protects:
            return Answer(code=NOT_SUPPORTED)
        try:
            if (method, what) == ("POST", "ready"):
                return Answer(code=self._set({"0": False, "1": True}[query["state"]]))
            if method == "GET" and what in ("report", "certificates"):
                device = self.devices[int(query["gpu"])]
                body = self._report(device, query["nonce"]) if what == "report" else _chain(device, query["of"])
                return Answer(body, size=self.sizes.get(what))
        except (KeyError, ValueError, IndexError) as error:
            return Answer(f"{type(error).__name__}: {error}".encode(), status=400)
        return Answer(status=404)

    def _report(self, device: SimulatedDevice, nonce: str) -> bytes:
        asked = bytes.fromhex(nonce)
        if len(asked) != NONCE_BYTES:
            raise ValueError(f"a nonce has {NONCE_BYTES} bytes, not {len(asked)}")
        return device.report(asked, self.shape)

    def _set(self, ready: bool) -> int:
        if self.spent:
            return INVALID_ARGUMENT
        self.spent = self.ready_once and self.ready and not ready
        self.ready = ready
        self.history.append(ready)
        return SUCCESS


def _chain(device: SimulatedDevice, name: str) -> bytes:
    """The chain of the key that signs reports, or, shorter by that key's certificate, the device's own."""
    return {"attestation": device.chain, "device": pem(*device.certificates[1:])}[name]
