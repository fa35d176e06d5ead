"""Wiring: `python -m chrysalis.broker.main --config /etc/chrysalis/broker.yaml`.  The keys are those of settings.Settings."""

from __future__ import annotations

import argparse
import logging
import signal
import ssl
import sys
from pathlib import Path

import uvicorn
from prometheus_client import generate_latest

from chrysalis.broker import anchors, database_settings, fresh_start, logs, secret_keys, settings
from chrysalis.broker.anchor_keeper import Keeper
from chrysalis.broker.anchors import State
from chrysalis.broker.app import HOUSEKEEPING_SECONDS, create_app
from chrysalis.broker.attestor import Attestor
from chrysalis.broker.audit_check import AuditCheck
from chrysalis.broker.callers import Callers, KubernetesReviewer, TokenReviewer
from chrysalis.broker.certificates import ClientCertificates
from chrysalis.broker.collateral import CollateralCache
from chrysalis.broker.deps import Deps
from chrysalis.broker.ear_keys import EarKeys
from chrysalis.broker.gpu_services import BrokersGpuServices
from chrysalis.broker.health import Check, PlainServer
from chrysalis.broker.judging import Judge
from chrysalis.broker.metrics import Metrics
from chrysalis.broker.name_budget import NameBudget
from chrysalis.broker.nonces import Nonces
from chrysalis.broker.oidc import OidcVerifier
from chrysalis.broker.own_evidence import OwnEvidence
from chrysalis.broker.pccs import CollateralFetcher, PccsFetcher
from chrysalis.broker.reappraisal import Reappraiser
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.records import OwnersRecords
from chrysalis.broker.reference_values import References
from chrysalis.broker.release import Results
from chrysalis.broker.server import MAX_HEADER_BYTES, TlsServer
from chrysalis.broker.settings import Settings
from chrysalis.broker.signed_results import SignedResults
from chrysalis.broker.simulation import Simulation
from chrysalis.broker.state_keys import StateKeys
from chrysalis.broker.store import Store
from chrysalis.broker.tenants import Tenants
from chrysalis.broker.version_floors import Floors
from chrysalis.clock import Clock, SystemClock, unix

log = logging.getLogger(__name__)

STALE_SECONDS = 4 * HOUSEKEEPING_SECONDS
"""The event loop is reported dead after this long without a beat."""
SWITCH_SECONDS = 0.0005
"""Judging holds the interpreter; the event loop, which needs it after every system call, gets it back ten times as soon."""
EXIT_USAGE = 2


def assemble(
    configuration: Settings,
    *,
    clock: Clock,
    fetcher: CollateralFetcher | None = None,
    reviewer: TokenReviewer | None = None,
) -> Deps:
    """Build a broker: keys, database, services.  fetcher and reviewer replace those of the settings.

    Raises BrokerError when the state or a preloaded file cannot be used, or the audit log was changed.
    """
    secret_keys.prepare(configuration)
    store = Store(database_settings.url_of(configuration.database, configuration.state_dir))
    keys, encryption = secret_keys.open_all(configuration, store.database, clock)
    ear_keys = EarKeys(database=store.database, anchor=keys.ear_key, encryption=encryption, settings=configuration.ear_keys, clock=clock)
    ear_keys.check()
    audit_check = AuditCheck(store.database, keys.ear_key)
    noted = _check_history(configuration, store, keys, audit_check, clock)
    floors = Floors.of(store.database)
    metrics = Metrics()
    tenants = Tenants(configuration.tenants)
    certificates = ClientCertificates(tenants.all, clock)
    if fetcher is None and configuration.collateral.url is not None:
        fetcher = PccsFetcher(configuration.collateral)
    if reviewer is None and configuration.kubernetes is not None:
        reviewer = KubernetesReviewer(configuration.kubernetes, clock)
    collateral = CollateralCache(store=store, fetcher=fetcher, update_channel=configuration.collateral.update, clock=clock, metrics=metrics)
    collateral.preload(configuration.collateral.preload)
    names = NameBudget.of(anchors.room(configuration.anchor), tenants) if configuration.anchor else None
    records = OwnersRecords(store=store, tenants=tenants, encryption=encryption, clock=clock, floors=floors, names=names)
    references = References(store=store, publishers=configuration.publisher_keys, clock=clock, floors=floors)
    gpu_services = _gpu_services(configuration, store, clock, metrics)
    judge = Judge(
        store=store,
        records=records,
        references=references,
        collateral=collateral,
        gpu_services=gpu_services,
        keys=keys,
        placement=configuration.placement,
    )
    own_evidence = OwnEvidence(configuration.own_evidence, keys=keys, collateral=collateral, clock=clock)
    own_evidence.check()
    signed = SignedResults()
    with store.database.reading() as db:
        nonces = Nonces(fresh_start.nonce_key(db, keys.nonce_key), clock, configuration.nonce_seconds)
    return Deps(
        settings=configuration,
        clock=clock,
        keys=keys,
        ear_keys=ear_keys,
        store=store,
        nonces=nonces,
        attestor=Attestor(
            store=store,
            judge=judge,
            nonces=nonces,
            keys=keys,
            ear_keys=ear_keys,
            signed=signed,
            placement=configuration.placement,
            clock=clock,
            metrics=metrics,
            tenants=tenants,
        ),
        results=Results(
            store=store,
            judge=judge,
            records=records,
            encryption=encryption,
            keys=keys,
            signed=signed,
            clock=clock,
            metrics=metrics,
            recalled=ear_keys.recalled,
        ),
        records=records,
        references=references,
        own_evidence=own_evidence,
        callers=Callers(
            tenants=tenants,
            broker_spki_sha256=keys.tls_spki_sha256,
            readers=configuration.kubernetes.service_accounts if configuration.kubernetes else (),
            reviewer=reviewer,
            providers=[OidcVerifier(provider, clock) for provider in configuration.oidc],
            certificates=certificates,
            clock=clock,
        ),
        certificates=certificates,
        collateral=collateral,
        gpu_services=gpu_services,
        reappraiser=Reappraiser(store=store, judge=judge, clock=clock, metrics=metrics),
        simulation=Simulation(store=store, judge=judge, clock=clock),
        metrics=metrics,
        audit_check=audit_check,
        noted=noted,
    )


def _gpu_services(configuration: Settings, store: Store, clock: Clock, metrics: Metrics) -> BrokersGpuServices:
    try:
        return BrokersGpuServices(configuration.gpu, store=store, clock=clock, metrics=metrics)
    except OSError as error:
        raise BrokerError(
            BrokerReason.SETTINGS_INVALID, "gpu names a caFile that cannot be read", "give certificates in PEM", str(error)
        ) from error


def _check_history(configuration: Settings, store: Store, keys: StateKeys, audit_check: AuditCheck, clock: Clock) -> State | None:
    """Refuse a database that is older than the anchor says, or whose audit log was changed; returns what the anchor holds by now."""
    anchor = anchors.of(configuration, keys.ear_key, clock)
    noted = anchors.check(store.database, anchor)
    if noted is not None:
        audit_check.verify((noted.audit_seq, noted.audit_hash))
    elif anchor is not None:
        audit_check.verify_whole()  # that no anchor was there before is the log's word: who took it out of there has broken it
    else:
        audit_check.verify()
    return None if anchor is None else anchors.begin(store.database, anchor, unix(clock.now()))


def tls_server(deps: Deps) -> TlsServer:
    """The TLS 1.3 server over the pinned key."""
    config = uvicorn.Config(
        create_app(deps),
        host=deps.settings.host,
        port=deps.settings.port,
        ssl_keyfile=deps.keys.tls_key_file,
        ssl_certfile=deps.keys.tls_certificate_file,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # limits are by address, and whoever may write one could write any
        ws="none",
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_graceful_shutdown=5,
    )
    config.load()
    if config.ssl is None:
        raise AssertionError("a TLS server without TLS")
    config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    deps.certificates.load_into(config.ssl)
    return TlsServer(config, deps.settings.limits, deps.clock, deps.limits.proven, deps.ending.begin)


def plain_paths(deps: Deps, keeper: Keeper | None = None) -> tuple[dict[str, Check], dict[str, Check]]:
    """The paths of the health port and of the metrics port; without an anchor that follows, a broker is not ready."""

    def healthz() -> tuple[int, str, bytes]:
        beat = deps.beat.at
        alive = not beat or deps.clock.monotonic() - beat < STALE_SECONDS
        return (200, "text/plain", b"ok\n") if alive else (503, "text/plain", b"the event loop hangs\n")

    def readyz() -> tuple[int, str, bytes]:
        if not deps.beat.at:
            return 503, "text/plain", b"starting\n"
        if deps.ending.begun:
            return 503, "text/plain", b"ending\n"
        try:
            deps.store.database.check()
        except Exception as error:  # the driver has many classes for a database that does not answer
            log.error("not ready", extra={"event": "NotReady", "error": type(error).__name__})
            return 503, "text/plain", b"the database does not answer, or only reads\n"
        if deps.audit_check.failure is not None:
            return 503, "text/plain", b"the audit log was changed\n"
        if keeper is not None and keeper.stale:
            return 503, "text/plain", b"the anchor does not follow the database\n"
        return 200, "text/plain", b"ok\n"

    def metrics() -> tuple[int, str, bytes]:
        return 200, "text/plain; version=0.0.4; charset=utf-8", generate_latest(deps.metrics.registry)

    def collateral() -> tuple[int, str, bytes]:
        return 200, "application/json", deps.collateral.status_json()

    return {"/healthz": healthz, "/readyz": readyz}, {"/metrics": metrics, "/collateral": collateral}


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM; exit code 2 when the configuration or the state cannot be used."""
    parser = argparse.ArgumentParser(prog="chrysalis-broker", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("/etc/chrysalis/broker.yaml"))
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    options = parser.parse_args(argv)
    logs.configure(options.log_level)
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        deps = assemble(settings.load(options.config), clock=SystemClock())
    except BrokerError as error:
        print(f"{error.reason}: {error.message}\n  what to do: {error.remedy}\n  detail: {error.detail}", file=sys.stderr)
        return EXIT_USAGE
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn handles both while it serves and raises them again afterwards; the process shall end by itself then.
        signal.signal(number, lambda _number, _frame: None)
    keeper, server_of_tls = None, tls_server(deps)
    if (anchor := anchors.of(deps.settings, deps.keys.ear_key, deps.clock)) is not None and deps.settings.anchor is not None:

        def end() -> None:
            server_of_tls.should_exit = True  # the next start says why it refuses

        staleness = deps.settings.anchor.max_staleness_seconds
        keeper = Keeper(deps.store.database, anchor, staleness, deps.clock, end, deps.noted)
        keeper.start()
    health, metrics = plain_paths(deps, keeper)
    plain = [
        PlainServer(deps.settings.host, port, paths)
        for port, paths in ((deps.settings.health_port, health), (deps.settings.metrics_port, metrics))
    ]
    for server in plain:
        server.start()
    log.info("broker starts", extra={"event": "Start"})
    try:
        server_of_tls.run()
    finally:
        for server in plain:
            server.stop()
        if keeper is not None:
            keeper.stop()
        deps.store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
