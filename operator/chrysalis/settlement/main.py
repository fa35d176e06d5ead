"""The settler's process: `python -m chrysalis.settlement.main --config FILE`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client import ApiClient

from chrysalis.api.account import SettlementAccountSpec
from chrysalis.chain.client import ChainClient, LiteserverClient
from chrysalis.chain.servers import ChainConfig
from chrysalis.chain.signer import SeedSigner
from chrysalis.clock import Clock, SystemClock
from chrysalis.errors import ChrysalisError
from chrysalis.settlement import app, logs, settings
from chrysalis.settlement.cluster import Accounts, ClusterDirectory, KubernetesLease
from chrysalis.settlement.collector import WorkerSource
from chrysalis.settlement.lease import Lease
from chrysalis.settlement.metrics import Metrics
from chrysalis.settlement.service import Means, Service
from chrysalis.settlement.settings import Settings
from chrysalis.wire.broker_client import BrokerClient
from chrysalis.wire.worker_client import WorkerClient

LOG = logging.getLogger("chrysalis.settlement")
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
STILL_SECONDS = 180.0
"""Liveness fails when no round ended for this long."""


async def run(config: Settings, clock: Clock) -> None:
    """Wire everything and run until SIGTERM or SIGINT."""
    signers = [SeedSigner.from_file(path) for path in config.settlement_key_files]
    reservation = SeedSigner.from_file(config.reservation_key_file)
    loader: Any = kubernetes_config
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        loader.load_incluster_config()
    else:
        await loader.load_kube_config()
    if config.min_servers == 1:
        LOG.warning("chain.one_server", extra={"event": "chain.one_server", "detail": "minServers is 1: one liteserver is believed alone"})
    metrics = Metrics()
    namespace = config.lease.namespace if config.lease.namespace is not None else await asyncio.to_thread(_own_namespace)
    token_file = config.broker.token_file
    async with (
        ApiClient() as api,
        BrokerClient(config.broker.url, spki_sha256=config.broker.spki_sha256, token=lambda: token_file.read_text().strip()) as broker,
    ):
        lease = Lease(
            KubernetesLease(api, namespace, config.lease.name, clock),
            identity=f"{os.environ.get('HOSTNAME', 'settler')}-{os.getpid()}",
            duration_seconds=config.lease.duration_seconds,
            clock=clock,
        )

        def chain(spec: SettlementAccountSpec) -> ChainClient:
            return LiteserverClient(ChainConfig.of(spec.liteservers, spec.global_id, config.min_servers), clock)

        async def connect(endpoint: str, pin: bytes, token: Callable[[], str]) -> AbstractAsyncContextManager[WorkerSource]:
            return await WorkerClient.connect(endpoint, pin, token)

        means = Means(
            state_dir=config.state_dir,
            signers=list(signers),
            reservation=reservation,
            ear_key=bytes.fromhex(config.broker.ear_key),
            clock=clock,
            metrics=metrics,
            chain=chain,
            directory=lambda where: ClusterDirectory(api, broker, where, clock),
            connect=connect,
            may_send=lease.held,
            valid_seconds=config.valid_seconds,
            drain_seconds=config.drain_seconds,
        )
        service = Service(
            Accounts(api, config.namespaces),
            means,
            lease,
            collect_seconds=config.collect_seconds,
            lease_seconds=config.lease.duration_seconds,
        )
        await _serve(config, service, metrics, clock)


def _own_namespace() -> str:
    return NAMESPACE_FILE.read_text().strip() if NAMESPACE_FILE.is_file() else "default"


async def _serve(config: Settings, service: Service, metrics: Metrics, clock: Clock) -> None:
    """The loop and the three servers; the first that ends, or a signal, ends all."""

    def alive() -> bool:
        return service.beat is None or clock.monotonic() - service.beat < STILL_SECONDS

    public = app.public_app(lambda: list(service.settlers.values()), clock)
    servers = [
        _server(public, config.host, config.port, config.tls_certificate_file, config.tls_key_file),
        _server(app.health_app(lambda: service.beat is not None, alive), config.host, config.health_port),
        _server(app.metrics_app(metrics), config.host, config.metrics_port),
    ]
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    tasks = [asyncio.create_task(service.run()), asyncio.create_task(ended.wait())]
    tasks += [asyncio.create_task(server.serve()) for server in servers]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for server in servers:
        server.should_exit = True
    for task in tasks[:2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the process has one way to end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `_serve`."""
        yield


def _server(web: FastAPI, host: str, port: int, certificate: Path | None = None, key: Path | None = None) -> _Server:
    return _Server(
        uvicorn.Config(
            web,
            host=host,
            port=port,
            ssl_certfile=certificate,
            ssl_keyfile=key,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
            limit_concurrency=256,
        )
    )


def main(argv: list[str] | None = None) -> int:
    """Run; 0 after an orderly end, 2 for an unreadable configuration."""
    parser = argparse.ArgumentParser(prog="python -m chrysalis.settlement.main", description="The Chrysalis settler")
    parser.add_argument("--config", type=Path, default=Path("/etc/chrysalis/settlement.yaml"))
    parser.add_argument("--log-level", default="INFO")
    arguments = parser.parse_args(argv)
    logs.configure(arguments.log_level)
    try:
        config = settings.load(arguments.config)
        asyncio.run(run(config, SystemClock()))
    except (ChrysalisError, OSError) as error:
        LOG.error("settler.failed", extra={"event": "settler.failed", "detail": str(error)})
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
