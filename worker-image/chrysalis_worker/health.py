"""What the kubelet and Prometheus ask: /healthz, /readyz, /status; /metrics on its own port."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from chrysalis_worker.metrics import CONTENT_TYPE, Metrics
from chrysalis_worker.state import WorkerState


def health_app(state: WorkerState) -> Starlette:
    """Alive while the event loop turns; ready while jobs are taken."""

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        if state.ready:
            return PlainTextResponse("ok\n")
        reason = "Draining" if state.draining else str(state.problem.reason) if state.problem is not None else "NotReady"
        return PlainTextResponse(f"{reason}\n", 503)

    async def status(_: Request) -> Response:
        return JSONResponse(state.status())

    return Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/status", status)])


def metrics_app(metrics: Metrics, state: WorkerState) -> Starlette:
    """The exposition format at /metrics."""

    async def text(_: Request) -> Response:
        metrics.ready.set(int(state.ready))
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    return Starlette(routes=[Route("/metrics", text)])
