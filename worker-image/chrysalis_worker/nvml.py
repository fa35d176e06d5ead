"""The domain's GPUs through NVIDIA's driver library, NVML (libnvidia-ml.so.1), by NVIDIA's own binding.

Evidence is of every GPU that NVML lists: the SPDM report over the session's nonce, and the attestation certificate chain.
A domain without the library has no GPUs; a library that is there and fails is an error, never "no GPUs".
Structures and calls: nvml.h (nvmlConfCompute…); which fields make evidence: NVIDIA's nvtrust, local_gpu_verifier.  NVML knows
nothing of NVSwitches: their reports come from another library (NSCQ), which is not asked; docs/adr/0009.

A call may block for seconds and, with a sick driver, for ever: each runs in a thread of its own, off the event loop, with a
limit.  A call that did not return in time cannot be ended; until it returns, no other is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pynvml

from chrysalis.attestation.gpu import chain, spdm
from chrysalis.attestation.gpu.evidence import MAX_DEVICES, GpuEvidence
from chrysalis.attestation.gpu.reasons import GpuError
from chrysalis.wire.gpu import GpuDevice
from chrysalis_worker.reasons import WorkerError, WorkerReason

T = TypeVar("T")
LIBRARY = "libnvidia-ml.so.1"
CALL_SECONDS = 20.0
"""For one call; the first may start a GPU's firmware, and a report takes about a second."""
INIT_FLAG_NO_GPUS = 1
"""Of nvmlInitWithFlags: a driver without a GPU is no error."""
NONCE_BYTES = 32
_ABSENT = f"{LIBRARY}: cannot open shared object file: No such file or directory"
"""What the dynamic linker says of this library, not of one that it needs."""
_DRIVER_LOG = "look at the driver's lines (NVRM, Xid) in the guest's kernel log; a GPU that is lost needs a new domain: delete the pod"
_REMEDIES = {
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the guest has NVIDIA's library and no running driver: use an image whose driver fits the GPU",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the library and the driver are of different versions: both must come from the guest image",
    pynvml.NVML_ERROR_NO_PERMISSION: "the guest must let the worker's containers open NVIDIA's device files",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: "the driver is too old for confidential computing: use a guest image with a newer one",
}
_READY_REMEDIES = {
    pynvml.NVML_ERROR_NO_PERMISSION: "the driver takes the ready state from CAP_SYS_ADMIN in the guest alone: the guest has to lend it to "
    "container `gateway`",
    pynvml.NVML_ERROR_INVALID_ARGUMENT: "the driver lets GPUs become ready once in its life, and they were: delete the pod, so that "
    "a new domain starts; if that does not help, the guest sets the state itself (nvrc.smi.srs=1) and must not",
}


@dataclass(frozen=True)
class Mode:
    """What the driver says of confidential computing; the proof is in the reports."""

    confidential: bool
    devtools: bool
    protected_pcie: bool


class NvmlGpus:
    """Evidence and ready state of all GPUs of this domain."""

    def __init__(self, *, seconds: float = CALL_SECONDS, device_files: Path = Path("/dev")) -> None:
        """seconds: for each call.  device_files: where the driver's device files (nvidia*) are looked for."""
        self._seconds = seconds
        self._device_files = device_files
        self._turn = asyncio.Lock()
        self._open = False
        self._initialised = False
        self._unreturned: tuple[str, threading.Thread] | None = None

    async def gpus(self, nonce: bytes) -> list[GpuDevice]:
        """Evidence of every GPU over this nonce (32 bytes), in NVML's order; raises WorkerError.

        GPUs without confidential computing, or with its developer tools, give none: work on them could be read.
        """
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"a nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
        async with self._turn:
            count = await self._count()
            if count == 0:
                return []
            await self._check_mode()
            return [await self._device(place, nonce) for place in range(count)]

    async def ready(self) -> bool | None:
        """Whether the GPUs take work; None where there are none.  Raises WorkerError, as `gpus` does for a mode without protection."""
        async with self._turn:
            if await self._count() == 0:
                return None
            await self._check_mode()  # without it the driver knows no ready state, or, in the developers' mode, begins with ready
            return await self._is_ready()

    async def set_ready(self, ready: bool) -> None:
        """Let the GPUs take work, or no longer; raises WorkerError (GpuReadyRefused, and what any call raises).

        In drivers of today the way back is for good: once GPUs that were ready are not, they cannot become ready again before
        the driver is loaded anew, which in a domain means a new domain (conf_compute_api.c of NVIDIA's open kernel modules).
        """
        state = pynvml.NVML_CC_ACCEPTING_CLIENT_REQUESTS_TRUE if ready else pynvml.NVML_CC_ACCEPTING_CLIENT_REQUESTS_FALSE
        wanted = "ready" if ready else "not ready"
        async with self._turn:
            if await self._count() == 0:
                raise WorkerError(WorkerReason.GPU_LIBRARY_FAILED, "there is no GPU whose ready state could be set", _DRIVER_LOG)
            try:
                await self._call("nvmlSystemSetConfComputeGpusReadyState", pynvml.nvmlSystemSetConfComputeGpusReadyState, state)
            except WorkerError as error:
                cause = error.__cause__
                if not isinstance(cause, pynvml.NVMLError):
                    raise
                raise WorkerError(
                    WorkerReason.GPU_READY_REFUSED,
                    f"the driver does not make the GPUs {wanted}: {_named(cause)}",
                    _READY_REMEDIES.get(cause.value, _DRIVER_LOG),
                ) from cause
            if await self._is_ready() is not ready:
                raise WorkerError(
                    WorkerReason.GPU_READY_REFUSED,
                    f"the driver was told to make the GPUs {wanted}, and says that they are not",
                    _DRIVER_LOG,
                )

    async def _check_mode(self) -> None:
        _check(await self._call("nvmlSystemGetConfComputeSettings", _mode))

    async def _is_ready(self) -> bool:
        said = await self._call("nvmlSystemGetConfComputeGpusReadyState", pynvml.nvmlSystemGetConfComputeGpusReadyState)
        return bool(said == pynvml.NVML_CC_ACCEPTING_CLIENT_REQUESTS_TRUE)

    async def _count(self) -> int:
        """How many GPUs NVML lists; 0 where the domain has no NVML."""
        if not self._open:
            if not await self._call("dlopen", self._present):
                return 0
            if self._initialised:  # an earlier call failed: let go of what the library may still hold
                with contextlib.suppress(WorkerError):
                    await self._call("nvmlShutdown", pynvml.nvmlShutdown)
                self._initialised = False
            await self._call("nvmlInitWithFlags", pynvml.nvmlInitWithFlags, INIT_FLAG_NO_GPUS)
            self._open = self._initialised = True
        count = await self._call("nvmlDeviceGetCount", pynvml.nvmlDeviceGetCount)
        if count > MAX_DEVICES:
            raise _invalid(f"NVML lists {count} GPUs; at most {MAX_DEVICES} are known in one domain")
        return int(count)

    def _present(self) -> bool:
        """Whether the domain has the library; raises OSError for one that does not load, and for devices without it."""
        try:
            ctypes.CDLL(LIBRARY)
        except OSError as error:
            devices = sorted(path.name for path in self._device_files.glob("nvidia*"))
            if str(error) != _ABSENT or devices:
                raise OSError(f"{error}; device files: {', '.join(devices) or 'none'}") from error
            return False
        return True

    async def _device(self, place: int, nonce: bytes) -> GpuDevice:
        handle = await self._call("nvmlDeviceGetHandleByIndex", pynvml.nvmlDeviceGetHandleByIndex, place)
        certificates = await self._call("nvmlDeviceGetConfComputeGpuCertificate", pynvml.nvmlDeviceGetConfComputeGpuCertificate, handle)
        made = await self._call(
            "nvmlDeviceGetConfComputeGpuAttestationReport", pynvml.nvmlDeviceGetConfComputeGpuAttestationReport, handle, nonce
        )
        report = _part(f"the report of GPU {place}", made.attestationReport, made.attestationReportSize)
        pem = _part(f"the certificates of GPU {place}", certificates.attestationCertChain, certificates.attestationCertChainSize).rstrip(
            b"\0"
        )
        try:
            asked = spdm.parse(report).nonce
            chain.load(pem)
        except GpuError as error:
            raise _invalid(f"the evidence of GPU {place} is not what NVML's fields hold: {error.message}", error.detail) from error
        if asked != nonce:
            raise _invalid(f"the report of GPU {place} is over another nonce")
        return GpuDevice.of(GpuEvidence(report, pem))

    async def _call(self, name: str, function: Callable[..., T], *arguments: object) -> T:
        """The function's result, from a thread of its own; raises WorkerError (GpuLibraryFailed, GpuLibraryTimeout)."""
        if self._unreturned is not None:
            earlier, thread = self._unreturned
            if thread.is_alive():
                raise _timeout(f"NVML's {earlier} has not returned yet")
            self._unreturned = None
        answer: Future[T] = Future()

        def work() -> None:
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(function(*arguments))
                except BaseException as error:
                    answer.set_exception(error)

        thread = threading.Thread(target=work, name=name, daemon=True)  # a daemon: a call that hangs must not keep the agent from ending
        thread.start()
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.wrap_future(answer)
        except TimeoutError:
            self._open, self._unreturned = False, (name, thread)
            raise _timeout(f"NVML's {name} did not return within {self._seconds:g} seconds") from None
        except asyncio.CancelledError:
            self._unreturned = (name, thread)
            raise
        except pynvml.NVMLError as error:
            self._open = False
            raise WorkerError(
                WorkerReason.GPU_LIBRARY_FAILED, f"NVML's {name} failed: {_named(error)}", _REMEDIES.get(error.value, _DRIVER_LOG)
            ) from error
        except OSError as error:
            raise WorkerError(
                WorkerReason.GPU_LIBRARY_FAILED,
                "the domain's NVML cannot be loaded",
                "the guest must mount NVIDIA's whole driver into the worker's containers, as its CDI hook does, or nothing of it",
                str(error)[:512],
            ) from error


def _mode() -> Mode:
    """What nvmlSystemGetConfComputeSettings says, or in a driver that lacks it, nvmlSystemGetConfComputeState."""
    said: Any = pynvml.c_nvmlSystemConfComputeSettings_v1_t()
    try:
        code = pynvml.nvmlSystemGetConfComputeSettings(ctypes.byref(said))
        if code != pynvml.NVML_SUCCESS:  # the binding hands it out unchecked
            raise pynvml.NVMLError(code)
        protected = said.multiGpuMode == pynvml.NVML_CC_SYSTEM_MULTIGPU_PROTECTED_PCIE
    except pynvml.NVMLError_FunctionNotFound:
        said, protected = pynvml.nvmlSystemGetConfComputeState(), False
    return Mode(
        confidential=said.ccFeature == pynvml.NVML_CC_SYSTEM_FEATURE_ENABLED,
        devtools=said.devToolsMode != pynvml.NVML_CC_SYSTEM_DEVTOOLS_MODE_OFF,
        protected_pcie=protected,
    )


def _check(mode: Mode) -> None:
    """Raises WorkerError for a mode in which the GPUs protect nothing; under protected PCIe the driver says that CC proper is off."""
    if mode.devtools:
        raise WorkerError(
            WorkerReason.GPU_DEVTOOLS_MODE,
            "the GPUs run in the developers' mode of confidential computing, in which their memory can be read",
            "set the GPUs' CC mode to on, without devtools, on the host, and delete the pod",
        )
    if not mode.confidential and not mode.protected_pcie:
        raise WorkerError(
            WorkerReason.GPU_CONFIDENTIAL_COMPUTING_OFF,
            "the domain has GPUs whose confidential computing is off",
            "set the GPUs' CC mode to on, or to protected PCIe, on the host, and delete the pod",
        )


def _part(what: str, field: Any, size: int) -> bytes:
    """The first `size` bytes of a field of fixed length; raises WorkerError (GpuEvidenceInvalid)."""
    if not 0 < size <= len(field):
        raise _invalid(f"NVML states {size} bytes for {what}, in a field of {len(field)}")
    return bytes(field[:size])


def _named(error: Any) -> str:
    """An NVML error's name and number; its text would have to be asked of the library that failed."""
    name = type(error).__name__.removeprefix("NVMLError_")
    return f"{name} ({error.value})" if name != "NVMLError" else f"error {error.value}"


def _invalid(message: str, detail: str = "") -> WorkerError:
    return WorkerError(WorkerReason.GPU_EVIDENCE_INVALID, message, _DRIVER_LOG, detail)


def _timeout(message: str) -> WorkerError:
    return WorkerError(WorkerReason.GPU_LIBRARY_TIMEOUT, message, _DRIVER_LOG)
