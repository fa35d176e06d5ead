"""Wiring: `python -m chrysalis.controller.main --config /etc/chrysalis/controller.yaml`.  The keys are those of settings.Settings."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import socket
import sys
import uuid
from pathlib import Path
from typing import Any

import kopf
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from chrysalis.clock import Clock, SystemClock
from chrysalis.controller import handlers, health, logs, settings
from chrysalis.controller.brokers import Brokers
from chrysalis.controller.executor import Executor
from chrysalis.controller.kube import Kubernetes
from chrysalis.controller.lease import Leadership
from chrysalis.controller.metrics import Metrics
from chrysalis.controller.reasons import ControllerError
from chrysalis.controller.reconcile import Cadence
from chrysalis.controller.runtime import Runtime
from chrysalis.controller.settings import Settings
from chrysalis.controller.workqueue import WorkQueue

log = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
EXIT_USAGE = 2


async def client(kubeconfig: Path | None) -> ApiClient:
    """A client of the cluster that this process runs in, or of the one that a kubeconfig names."""
    configuration = Configuration()
    loader: Any = config  # untyped
    if kubeconfig is None:
        loader.load_incluster_config(client_configuration=configuration)
    else:
        await loader.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
    configuration.retries = 0  # the queue tries again, with what is true by then
    return ApiClient(configuration)


def login(kubeconfig: Path | None) -> Any:
    """kopf's way into the same cluster."""

    def attempt(**arguments: Any) -> kopf.ConnectionInfo | None:
        if kubeconfig is not None:
            os.environ["KUBECONFIG"] = str(kubeconfig)
            return kopf.login_with_kubeconfig(**arguments)
        return kopf.login_with_service_account(**arguments)

    return attempt


async def run(configuration: Settings, *, kubeconfig: Path | None, clock: Clock, stop: asyncio.Event | None = None) -> None:
    """Run until stopped (by SIGTERM, or by `stop`)."""
    # A pod's name is its own: a container that is started again takes its Lease back at once, since its predecessor is dead.
    identity = socket.gethostname() if kubeconfig is None else f"{socket.gethostname()}_{uuid.uuid4()}"
    metrics = Metrics()
    async with await client(kubeconfig) as api:
        kubernetes = Kubernetes(api)
        leadership = Leadership(kubernetes, configuration.lease, identity=identity, clock=clock)
        executor = Executor(
            kubernetes,
            leading=leadership.held,
            clock=clock,
            metrics=metrics,
            resync_seconds=configuration.resync_seconds,
            identity=identity,
        )
        brokers = Brokers(configuration.broker, clock)
        cadence = Cadence(configuration.pending_poll_seconds, configuration.steady_poll_seconds)
        runtime = Runtime(clock, executor, brokers, metrics, cadence, WorkQueue(clock))
        registry = kopf.OperatorRegistry()
        handlers.register(registry, runtime, login(kubeconfig))
        on_health, on_metrics = health.paths(runtime, clock, metrics)
        plain = [
            health.PlainServer(configuration.host, configuration.health_port, on_health),
            health.PlainServer(configuration.host, configuration.metrics_port, on_metrics),
        ]
        for server in plain:
            server.start()
        tasks = [
            asyncio.create_task(leadership.keep(runtime.add_all), name="lease"),
            asyncio.create_task(_beat(runtime, leadership, metrics, clock), name="beat"),
            *(asyncio.create_task(runtime.work(leadership.held), name=f"worker-{n}") for n in range(configuration.concurrency)),
        ]
        log.info("controller starts", extra={"event": "Start"})
        operator = asyncio.create_task(kopf.operator(registry=registry, clusterwide=True, standalone=True, stop_flag=stop))
        try:
            # Whichever of them ends first, all end: a controller without its watch or its lease must be started anew.
            done, _ = await asyncio.wait([operator, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in [operator, *tasks]:
                task.cancel()
            await asyncio.gather(operator, *tasks, return_exceptions=True)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await leadership.release()
            await brokers.aclose()
            for server in plain:
                server.stop()


async def _beat(runtime: Runtime, leadership: Leadership, metrics: Metrics, clock: Clock) -> None:
    """Prove that the event loop runs."""
    while True:
        runtime.beat = clock.monotonic()
        metrics.leading.set(int(leadership.held()))
        metrics.broker_up.set(int(runtime.brokers.all_healthy()))
        await asyncio.sleep(BEAT_SECONDS)


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM; exit code 2 when the configuration cannot be used."""
    parser = argparse.ArgumentParser(prog="chrysalis-controller", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("/etc/chrysalis/controller.yaml"))
    parser.add_argument("--kubeconfig", type=Path, help="for a controller outside of the cluster; inside, its ServiceAccount is used")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    options = parser.parse_args(argv)
    logs.configure(options.log_level)
    try:
        configuration = settings.load(options.config)
    except ControllerError as error:
        print(f"{error.reason}: {error.message}\n  what to do: {error.remedy}\n  detail: {error.detail}", file=sys.stderr)
        return EXIT_USAGE
    asyncio.run(run(configuration, kubeconfig=options.kubeconfig, clock=SystemClock()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
