"""The entry point of container `gateway`: gets the domain attested and the model served, and keeps both so.

`python -m chrysalis_worker.agent`, without arguments or environment: everything comes from the measured initdata.

    pod information → keys → (evidence → result → GPUs ready) beside (package) → key → model → Triton → canary → ready
    then: renewal at two thirds of the result's life, or as soon as the broker says that the result has ended
          a canary every few seconds · drain when the pod ends
    a result that ends without a new one: Triton is stopped and the GPUs take no work, where there are GPUs

Whatever fails is tried again with back-off; the reason stands in the log, in /status and on /readyz.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from chrysalis.api import names
from chrysalis.api.initdata import MeasuredIdentity
from chrysalis.clock import Clock, SystemClock
from chrysalis.errors import ChrysalisError
from chrysalis.wire.broker_client import BrokerClient
from chrysalis.wire.reasons import Refused
from chrysalis_worker import keys, logs, package, podinfo
from chrysalis_worker.evidence import CocoRest, EvidenceSource, Gpus, NoGpus
from chrysalis_worker.gateway import Gateway
from chrysalis_worker.health import health_app, metrics_app
from chrysalis_worker.inference import Engine, Triton
from chrysalis_worker.metering import Meter
from chrysalis_worker.metrics import Metrics
from chrysalis_worker.nvml import NvmlGpus
from chrysalis_worker.offers import OfferBook
from chrysalis_worker.orders import Orders
from chrysalis_worker.paths import PodPaths
from chrysalis_worker.readiness import GpuGate
from chrysalis_worker.reasons import WorkerError, WorkerReason
from chrysalis_worker.receiptlog import ReceiptLog
from chrysalis_worker.server import Serving, Sessions
from chrysalis_worker.session import Appraisable, Attester, Broker, Session
from chrysalis_worker.state import LOG, Phase, WorkerState
from chrysalis_worker.tickets import TicketBook

T = TypeVar("T")
PACKAGE_FILE = "package.age"
RESULT_ENDED = frozenset({"PolicyChanged", "KeyChanged", "ResultRevoked", "ResultExpired", "ResultUnknown"})
"""The broker's reasons that a new attestation may remove: the model does not wait for the renewal then."""


@dataclass(frozen=True)
class Timing:
    """How often and how long, in seconds; tests make it faster."""

    retry_first: float = 0.25
    retry_most: float = 30.0
    canary_interval: float = 2.0
    standing: float = 30.0  # between questions whether the result still counts, as long as the broker has not said how often
    standing_least: float = 5.0
    triton_start: float = 30.0
    poll: float = 0.05
    gpu_check: float = 5.0  # between looks at the GPUs' ready state; the end of a result is looked at when it comes
    drain: float = 40.0  # for jobs in flight
    last_pull: float = 8.0  # for the settler to fetch the last receipts; with `drain` less than the supervisor's patience


@dataclass(frozen=True)
class Listen:
    """Where the agent listens; port 0 takes any."""

    host: str = "0.0.0.0"  # noqa: S104 - a pod's own address
    gateway: int = names.PORT_GATEWAY
    health: int = names.PORT_HEALTH
    metrics: int = names.PORT_METRICS


@dataclass
class Agent:
    """One worker's agent.  Everything that it touches is given to it."""

    paths: PodPaths
    clock: Clock
    source: EvidenceSource
    broker: Callable[[MeasuredIdentity], Broker]
    engine: Callable[[str, str], Engine] = Triton
    gpus: Gpus = field(default_factory=NoGpus)
    listen: Listen = Listen()
    timing: Timing = Timing()
    ports: dict[str, int] = field(default_factory=dict)
    """The ports that are listened on, once they are."""

    def __post_init__(self) -> None:
        self.metrics = Metrics()
        self.state = WorkerState(self.clock)
        self._sessions = Sessions()
        self._orders = Orders(self.paths.supervisor_socket)
        self._ending = asyncio.Event()
        self._suspicion = asyncio.Event()
        self._result_ended = asyncio.Event()
        self._key_known = True
        """Whether the broker knows, as far as the agent does, that this domain has the key."""
        self._serving: list[Serving] = []
        self._gate = GpuGate(self.gpus, self.clock, self.metrics, self.paths.receipts, self._stop_for_gpus)

    def end(self) -> None:
        """Drain and end; what SIGTERM does."""
        self._ending.set()

    async def run(self) -> int:
        """Serve until told to end; returns the exit code: 0 after an orderly end, 1 when there is nothing to serve for."""
        await self._listen("health", Serving(health_app(self.state), host=self.listen.host, port=self.listen.health))
        await self._listen("metrics", Serving(metrics_app(self.metrics, self.state), host=self.listen.host, port=self.listen.metrics))
        self.state.reach(Phase.STARTED)
        work = asyncio.create_task(self._work())
        ending = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait({work, ending}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            await self._drain()
            return 0
        except ChrysalisError as error:
            self.state.trouble("agent.failed", error)
            return 1
        finally:
            for task in (work, ending):
                task.cancel()
            await asyncio.gather(work, ending, return_exceptions=True)
            await asyncio.gather(*(server.stop() for server in self._serving))

    async def _work(self) -> None:
        pod = podinfo.read(self.paths.podinfo)
        domain = keys.domain_keys(self.paths.receipts)
        identity = pod.initdata.identity
        attester = Attester(pod=pod, domain=domain, broker=self.broker(identity), source=self.source, clock=self.clock, gpus=self.gpus)
        engine = self.engine(self.paths.grpc_target, identity.model.name)
        await self._listen("gateway", self._gateway(attester, engine))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_supervisor())
            attested = tasks.create_task(self._attest_first(attester, tasks))
            await self._retrying("package.failed", lambda: package.fetch(identity.model.package, self.paths.scratch / PACKAGE_FILE))
            self.state.reach(Phase.PACKAGE_FETCHED, bytes=identity.model.package.size_bytes)
            await attested
            tasks.create_task(self._renew(attester))
            tasks.create_task(self._watch_result(attester))
            await self._retrying("gpus.failed", self._gate.check_open)
            if self._gate.present:
                self.state.reach(Phase.GPUS_READY)
            await self._retrying("model.failed", lambda: self._open_model(attester))
            await self._retrying("triton.failed", lambda: self._start(engine))
            self.state.reach(Phase.SERVING)
            tasks.create_task(self._canaries(engine))

    def _gateway(self, attester: Attester, engine: Engine) -> Serving:
        identity, domain = attester.pod.initdata.identity, attester.domain
        receipts = ReceiptLog(self.paths.receipts, domain.receipt, identity.set)
        offers = OfferBook(self.paths.receipts, domain, identity, self.clock)
        tickets = None
        if identity.set != "none":
            tickets = TicketBook(
                self.paths.receipts,
                set_name=identity.set,
                wrk=domain.wrk,
                model_digest=identity.model.digest,
                reservation_keys=[bytes.fromhex(key) for key in identity.reservation_keys],
                offers=offers,
                clock=self.clock,
            )
            tickets.restore(receipts.restored)

        async def fresh(session: Session, nonce: bytes) -> Appraisable:
            return await attester.appraisable(nonce, session.tls)

        if identity.set != "none":
            self.state.unpulled = lambda: max(0, receipts.last - self.state.pulled)
        gateway = Gateway(
            identity=identity,
            wrk=domain.wrk,
            state=self.state,
            engine=engine,
            meter=Meter(offers=offers, receipts=receipts, tickets=tickets, clock=self.clock, metrics=self.metrics),
            offers=offers,
            receipts=receipts,
            tickets=tickets,
            fresh=fresh,
            suspect=self._suspicion.set,
            clock=self.clock,
            metrics=self.metrics,
        )
        logs.event(LOG, "gateway.listening", wrk=domain.wrk, set=identity.set, receipts=receipts.last)
        return Serving(gateway.app(), host=self.listen.host, port=self.listen.gateway, sessions=self._sessions)

    async def _listen(self, name: str, server: Serving) -> None:
        self._serving.append(server)
        await server.started()
        self.ports[name] = server.port

    async def _attest_first(self, attester: Attester, tasks: asyncio.TaskGroup) -> None:
        await self._retrying("gpus.failed", self._gate.settle)  # none takes work before the domain is accepted
        if self._gate.present:
            tasks.create_task(self._watch_gpus())
        await self._retrying("attestation.failed", lambda: self._attest(attester))
        self.state.reach(Phase.ATTESTED)

    async def _attest(self, attester: Attester) -> None:
        try:
            session = await attester.attest()
        except ChrysalisError as error:
            self.metrics.attestations.labels(error.reasons[0].reason if isinstance(error, Refused) else str(error.reason)).inc()
            raise
        self.metrics.attestations.labels("Accepted").inc()
        self.metrics.result_expiry.set(session.result.expires_at.timestamp())
        self._sessions.replace(session)
        self.state.session = session
        self._gate.accept(session.deadline)
        result = session.result
        logs.event(
            LOG,
            "attestation.accepted",
            result=result.result_id,
            expires_at=result.expires_at.isoformat(),
            limited_by=result.limited_by,
            evidence_class=result.evidence_class,
            tcb_status=result.tcb_status,
            policy=f"{result.policy_name} v{result.policy_version}",
        )

    async def _renew(self, attester: Attester) -> None:
        """A new result at two thirds of the old one's life, or when it has ended; jobs go on under the old one until it ends."""
        while True:
            session = self.state.session
            if session is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, session.renew_at - self.clock.monotonic())):
                        await self._result_ended.wait()
            await self._retrying("renewal.failed", lambda: self._renewed(attester))
            if not self._key_known:
                await self._retrying("release.failed", lambda: self._show_key(attester))

    async def _watch_result(self, attester: Attester) -> None:
        """Ask now and then whether the result still counts: it may be revoked, or the broker set back to before it.

        The pauses are the broker's wish, spread by a quarter, and the same while it does not answer: a pool whose broker comes back
        comes to it one after the other.
        """
        pause = self.timing.standing
        while True:
            await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311 - spreads questions, guards nothing
            session = self.state.session
            if session is None or self._result_ended.is_set():
                continue
            try:
                standing = await attester.broker.standing(session.result.result_id)
            except ChrysalisError as error:
                logs.event(LOG, "standing.unknown", logging.DEBUG, reason=str(error.reason))
                continue
            pause = max(self.timing.standing_least, float(standing.ask_again_seconds))
            if standing.living or session is not self.state.session:
                continue
            self.metrics.results_ended.inc()
            logs.event(LOG, "result.ended", logging.WARNING, result=session.result.result_id, reason=standing.reason)
            self._result_ended.set()

    async def _renewed(self, attester: Attester) -> None:
        """A new result.  Where the old one has ended already and the broker refuses another, the old one ends here, too."""
        ended, before = self._result_ended.is_set(), self.state.session
        try:
            await self._attest(attester)
        except Refused as error:
            if ended and not error.retryable:
                self.state.end_results()  # the GPUs stay until the result's own end: some drivers make them ready only once
            raise
        self._result_ended.clear()
        if before is not None and Phase.KEY_RELEASED in self.state.phases and (ended or not await self._known(attester, before)):
            self._key_known = False

    @staticmethod
    async def _known(attester: Attester, before: Session) -> bool:
        """Whether the broker still knows the result before this one: a renewal may be the first question after it was set back."""
        try:
            return (await attester.broker.standing(before.result.result_id)).living
        except ChrysalisError:
            return False

    async def _show_key(self, attester: Attester) -> None:
        """Ask for the model key once more, and throw it away.

        A broker that was set back to before it released the key knows from then on that this domain has it, and so does the operator.
        """
        session = self.state.session
        if session is None or self.clock.monotonic() >= session.renew_at:
            return  # the renewal comes first
        try:
            await attester.broker.release(attester.pod.initdata.identity.model.key_id, session.result.result_id)
        except Refused as error:
            if error.reasons[0].reason in RESULT_ENDED:
                await self._attest(attester)
            raise
        self._key_known = True

    async def _watch_gpus(self) -> None:
        """The GPUs' ready state follows the results: at their end, after each renewal, and where the driver changed it by itself."""
        while True:
            left = self._gate.seconds_left
            await asyncio.sleep(min(self.timing.gpu_check, left) if left > 0 else self.timing.gpu_check)
            try:  # without back-off: the end of a result is never slept through
                await self._gate.settle()
            except WorkerError as error:
                self.state.trouble("gpus.failed", error)

    async def _stop_for_gpus(self) -> None:
        """No Triton on GPUs that must not be used."""
        self.state.canary_passes = False
        with contextlib.suppress(WorkerError):  # without its supervisor there is no Triton either
            await self._orders.order("stop")

    async def _open_model(self, attester: Attester) -> None:
        """Key, package, model; a key once opened is not asked for again."""
        model = attester.pod.initdata.identity.model
        session = self.state.session
        if session is None:
            raise AssertionError("a model is opened after the first attestation")
        try:
            wrapped = await attester.broker.release(model.key_id, session.result.result_id)
        except Refused as error:
            if error.reasons[0].reason in RESULT_ENDED and self.state.session is session:
                await self._attest(attester)
            raise
        secret = package.identity(wrapped, model, attester.domain)
        self.state.reach(Phase.KEY_RELEASED, key_id=model.key_id)
        with contextlib.suppress(WorkerError):  # an earlier agent's Triton may still read the old files
            await self._orders.order("stop")
        sealed = self.paths.scratch / PACKAGE_FILE
        models = await package.open_model(sealed, secret, model, self.paths.model)
        sealed.unlink(missing_ok=True)
        self.state.reach(Phase.MODEL_OPENED, models=models)

    async def _start(self, engine: Engine) -> None:
        """Triton up, its model ready, and a canary answered; where there are GPUs, only while they may be used."""
        async with self._gate.passing():
            await self._orders.order("restart")
        until = self.clock.monotonic() + self.timing.triton_start
        while True:
            try:
                await engine.load()
                break
            except WorkerError as error:
                if error.reason != WorkerReason.TRITON_NOT_READY or self.clock.monotonic() > until:
                    raise
                if (await self._orders.order("status")).state != "running":
                    raise
            await asyncio.sleep(self.timing.poll)
        self.state.reach(Phase.TRITON_READY)
        await engine.canary()
        self.state.canary_passes = self._gate.is_open
        self.state.problem = None

    async def _canaries(self, engine: Engine) -> None:
        """A test inference at each interval, and at once after a job failed; a failed one turns the worker unready and restarts Triton."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.timing.canary_interval):
                    await self._suspicion.wait()
            self._suspicion.clear()
            try:
                if self._gate.is_open:
                    await engine.canary()
                    continue
            except WorkerError as error:
                if self.state.draining:
                    return
                self.state.canary_passes = False
                if self._gate.is_open:
                    self.metrics.canary_failures.inc()
                    self.state.trouble("canary.failed", error)
            self.metrics.triton_restarts.inc()
            await self._retrying("triton.failed", lambda: self._start(engine))
            logs.event(LOG, "canary.recovered")

    async def _watch_supervisor(self) -> None:
        """Kubernetes ends container `triton` before this one; the supervisor says so, and waits for the drain."""
        while True:
            try:
                async for status in self._orders.watch():
                    if status.terminating:
                        self.end()
                    elif status.state == "exited":
                        self._suspicion.set()
            except WorkerError:
                self._suspicion.set()
            await asyncio.sleep(self.timing.retry_first)

    async def _drain(self) -> None:
        """No new jobs; those in flight end; then Triton."""
        self.state.draining = True
        logs.event(LOG, "drain.begin", in_flight=self.state.in_flight)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.timing.drain):
                await self.state.idle.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.timing.last_pull):
                await self._last_pull()
        with contextlib.suppress(WorkerError):  # it may be gone already
            await self._orders.order("stop")
        logs.event(LOG, "drain.end", in_flight=self.state.in_flight, unpulled=self.state.unpulled())

    async def _last_pull(self) -> None:
        """Receipts end with the domain; until the settler has asked for what comes after the last one, it may miss some."""
        while self.state.unpulled():
            self.state.pull.clear()
            await self.state.pull.wait()

    async def _retrying(self, event: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Until it succeeds: exponential back-off with jitter, each failure noted with its reason."""
        delay = self.timing.retry_first
        while True:
            try:
                return await attempt()
            except ChrysalisError as error:
                pause = delay * random.uniform(0.75, 1.25)  # noqa: S311 - spreads retries, guards nothing
                self.state.trouble(event, error, retry_in_seconds=round(pause, 2))
            await asyncio.sleep(pause)
            delay = min(delay * 2, self.timing.retry_most)


async def serve() -> int:
    """The agent of the worker image."""
    clock = SystemClock()
    agent = Agent(
        paths=PodPaths(),
        clock=clock,
        source=CocoRest(),
        gpus=NvmlGpus(),
        broker=lambda identity: BrokerClient(identity.broker.url, spki_sha256=identity.broker.spki_sha256),
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.end)
    return await agent.run()


def main() -> int:
    """Run it."""
    logs.configure()
    return asyncio.run(serve())


if __name__ == "__main__":
    sys.exit(main())
