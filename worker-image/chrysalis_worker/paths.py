"""Where things stand in the worker image and in the worker's pod.  Standard library only: the supervisor reads it too.

The image builder lays the two environments out at OPT_TV and OPT_CV; the template of the pod mounts the volumes at RUN_*.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

OPT_TV = Path("/opt/tv")
"""Triton, its Python backend and what the models import; its interpreter runs the supervisor."""
OPT_CV = Path("/opt/cv")
"""The agent and the gateway."""
SITE_PACKAGES = Path("lib/python3.11/site-packages")
"""Below OPT_TV and OPT_CV.  `chrysalis_worker` stands in both, `chrysalis` in OPT_CV."""
TRITON_HOME = OPT_TV / SITE_PACKAGES / "pytriton/tritonserver"

RUN_MODEL = Path("/run/model")
"""The opened model repository: memory-backed, written by the agent, read-only for Triton."""
RUN_TRITON = Path("/run/triton")
"""Sockets between the two containers: memory-backed."""
RUN_RECEIPTS = Path("/run/receipts")
"""Receipts and the keys of the domain's life: memory-backed, the agent's alone, survives a kill of the agent."""
RUN_PODINFO = Path("/run/podinfo")
"""The downward API: untrusted, except that the initdata's hash is in the quote."""
SCRATCH = Path("/tmp")  # noqa: S108 - each container has its own memory-backed /tmp
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - what Triton's Python backend uses, cleaned by prefix
SHARED_MEMORY_PREFIX = "chrysalis_"

GRPC_SOCKET = "g.sock"
"""In RUN_TRITON; Triton appends `:<port>`, so clients dial `unix:/run/triton/g.sock:1`."""
GRPC_PORT = 1
SUPERVISOR_SOCKET = "supervisor.sock"


@dataclass(frozen=True)
class PodPaths:
    """The folders that the agent works in; tests put them into a temporary folder."""

    model: Path = RUN_MODEL
    triton: Path = RUN_TRITON
    receipts: Path = RUN_RECEIPTS
    podinfo: Path = RUN_PODINFO
    scratch: Path = SCRATCH

    @property
    def grpc_target(self) -> str:
        """What a gRPC client dials to reach Triton."""
        return f"unix:{self.triton / GRPC_SOCKET}:{GRPC_PORT}"

    @property
    def supervisor_socket(self) -> Path:
        """Where the supervisor takes orders."""
        return self.triton / SUPERVISOR_SOCKET
