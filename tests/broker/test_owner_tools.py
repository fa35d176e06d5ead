"""The owner's command line against a real TLS broker: bundles fetched and judged, a broker judged before it gets a key."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from starlette.testclient import TestClient

from chrysalis.api.policy import AttestationPolicySpec, SignedPolicy
from chrysalis.broker import main as broker_main
from chrysalis.broker.app import create_app
from chrysalis.broker.settings import Settings
from chrysalis.cli.main import main
from chrysalis.clock import ManualClock, SystemClock, rfc3339
from chrysalis.wire.broker import PAYLOAD_POLICY
from e2e.simtd.platform import Guests
from tests.broker.conftest import MODEL_DIGEST
from tests.cli.documented import told as documented

CONFIGURATION = b"\x77" * 48


@pytest.fixture
def clock() -> ManualClock:
    """The command line asks the machine for the time, so the broker's clock stands near it."""
    return ManualClock(SystemClock().now())


class Tools:
    """Runs the program against a broker that is served."""

    def __init__(self, world: Any, folder: Path, port: int, capsys: pytest.CaptureFixture[str]) -> None:
        self.world, self.folder, self._capsys = world, folder, capsys
        self.at = ("--broker", f"https://127.0.0.1:{port}", "--pin", world.deps.keys.tls_spki_sha256.hex())
        self.key("acme.key", world.acme.key)

    def key(self, name: str, key: Ed25519PrivateKey) -> Path:
        path = self.folder / name
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return path

    def __call__(self, *words: object) -> int:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        self.said, self.error = self._capsys.readouterr()
        return int(ended.value.code or 0)

    def json(self, *words: object) -> tuple[int, dict[str, Any]]:
        code = self(*words, "-o", "json")
        found: dict[str, Any] = json.loads(self.said)
        return code, found


def serving(deps: Any) -> Iterator[int]:
    object.__setattr__(deps, "settings", deps.settings.model_copy(update={"host": "127.0.0.1", "port": 0}))
    server: uvicorn.Server = broker_main.tls_server(deps)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(60)


@pytest.fixture
def tools(world: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Tools]:
    for port in serving(world.deps):
        yield Tools(world, tmp_path, port, capsys)


@pytest.fixture
def fetched(tools: Tools) -> Path:
    """The bundle of an accepted result, as `bundle get` wrote it."""
    result = tools.world.attest(tools.world.domain(tools.world.acme)).json()["resultId"]
    file = tools.folder / "bundle.json"
    assert tools("bundle", "get", result, *tools.at, "--owner-key", tools.folder / "acme.key", "--out", file) == 0, tools.error
    assert tools.said.startswith("sha256:")
    return file


def test_a_bundle_is_fetched_inspected_and_judged(tools: Tools, fetched: Path) -> None:
    owner, ear_key = tools.world.acme.public.hex(), tools.world.deps.keys.ear_public.hex()
    code, shown = tools.json("verify", "--bundle", fetched, "--owner", owner, "--ear-key", ear_key)
    assert documented(shown, "verify --bundle")
    assert (code, shown["verdict"]) == (0, "Accepted"), shown
    assert (shown["mode"], shown["freshness"], shown["revocation"]) == ("ear", "BrokerNonce", "NotChecked")
    assert (shown["policy"]["signature"], shown["ear"], shown["statement"]) == ("Pinned", "Pinned", "Pinned")
    code, inspected = tools.json("bundle", "inspect", fetched)
    assert documented(inspected, "bundle inspect")
    assert (code, inspected["source"], inspected["verdict"]) == (0, "Broker", "Accepted")
    assert inspected["bundleDigest"] == shown["bundleDigest"]
    assert tools("bundle", "inspect", fetched) == 0
    assert "not judged" in tools.said


def test_what_was_not_given_is_said_loudly(tools: Tools, fetched: Path) -> None:
    assert tools("verify", "--bundle", fetched) == 0
    for words in ("--owner was not given", "--ear-key was not given", "freshness: NotChecked", "revocation: NotChecked", "Simulated"):
        assert words in tools.said
    assert tools.world.acme.public.hex() in tools.said


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["--owner", "ab" * 32], 1, "EnvelopeSignatureInvalid"),
        (["--ear-key", "ab" * 32], 1, "EarSignatureInvalid"),
        (["--nonce", "ab" * 32], 1, "ReportDataMismatch"),
        (["--at", "2099-01-01T00:00:00Z"], 1, "CollateralExpired"),
        (["--at", "now"], 0, ""),
    ],
)
def test_exit_codes_of_verdicts(tools: Tools, fetched: Path, words: list[str], code: int, reason: str) -> None:
    found, shown = tools.json("verify", "--bundle", fetched, *words)
    reasons = {r["reason"] for r in shown["reasons"]}
    assert (found, not reason or reason in reasons) == (code, True), shown["reasons"]
    assert tools("verify", "--bundle", fetched, *words) == code


@pytest.mark.parametrize(
    "words",
    [
        ["verify"],
        ["verify", "--bundle", "BUNDLE", "BUNDLE"],
        ["verify", "--bundle", "BUNDLE", "--collateral", "BUNDLE"],
        ["verify", "BUNDLE", "--owner", "ab" * 32],
        ["verify", "--bundle", "BUNDLE", "--owner", "ab"],
        ["verify", "--bundle", "BUNDLE", "--owner", "zz" * 32],
        ["verify", "--bundle", "/nowhere"],
        ["bundle", "inspect", "/nowhere"],
    ],
)
def test_usage_and_unreadable_input_are_two(tools: Tools, fetched: Path, words: list[str]) -> None:
    assert tools(*(fetched if word == "BUNDLE" else word for word in words)) == 2
    fetched.write_bytes(fetched.read_bytes()[:-2])
    assert tools("verify", "--bundle", fetched) == 2
    assert "BundleMalformed" in tools.error


def test_another_policy_may_be_asked_for(tools: Tools, fetched: Path) -> None:
    document = tools.world.policy(tools.world.acme, isolation=["NodeTD"])
    policy = tools.folder / "policy.yaml"
    policy.write_text(yaml.safe_dump(document))
    code, shown = tools.json("verify", "--bundle", fetched, "--policy", policy)
    assert (code, [r["reason"] for r in shown["reasons"]]) == (1, ["IsolationNotAllowed"])
    assert shown["policy"]["enclosed"] is False


def test_a_stranger_gets_no_bundle(tools: Tools, fetched: Path) -> None:
    result = json.loads(fetched.read_bytes())["result"]["resultId"]
    stranger = tools.key("stranger.key", Ed25519PrivateKey.generate())
    rival = tools.key("rival.key", tools.world.rival.key)
    for key, reason in ((stranger, "CallerUnauthenticated"), (rival, "ResultUnknown")):
        assert tools("bundle", "get", result, *tools.at, "--owner-key", key, "--out", tools.folder / "no") == 1
        assert reason in tools.error
    token = tools.folder / "token"
    token.write_text("operator\n")
    assert tools("bundle", "get", result, *tools.at, "--token-file", token, "--out", tools.folder / "yes") == 0
    assert tools("bundle", "get", result, *tools.at, "--out", tools.folder / "no") == 2
    assert tools("bundle", "get", result, *tools.at, "--token-file", token, "--out", "-") == 0
    assert tools.said.encode() == (tools.folder / "yes").read_bytes()
    assert not (tools.folder / "no").exists()


def test_a_bundle_is_made_of_files(tools: Tools) -> None:
    world, folder = tools.world, tools.folder
    domain = world.domain(world.acme)
    evidence = domain.evidence()
    answer = world.post("/v1/attest", evidence)
    parts: dict[str, bytes] = {
        "quote": base64.b64decode(evidence.quote),
        "initdata": base64.b64decode(evidence.initdata),
        "event-log": base64.b64decode(evidence.event_log),
        "keys": evidence.keys.model_dump_json(by_alias=True).encode(),
        "claimed": evidence.claimed.model_dump_json(by_alias=True).encode(),
        "collateral": answer.json()["collateral"].encode(),
        "result": answer.content,
    }
    signed = SignedPolicy(name="workers", spec=AttestationPolicySpec.model_validate(world.policy(world.acme)))
    parts["policy"] = world.acme.sign(PAYLOAD_POLICY, signed).model_dump_json(by_alias=True).encode()
    words: list[object] = ["--nonce", evidence.nonce, "--at", rfc3339(world.clock.now())]
    for name, data in parts.items():
        (folder / name).write_bytes(data)
        words += [f"--{name}", folder / name]
    file = folder / "made.json"
    assert tools("bundle", "make", *words, "--out", file) == 0, tools.error
    pins = ("--owner", world.acme.public.hex(), "--ear-key", world.deps.keys.ear_public.hex())
    code, shown = tools.json("verify", "--bundle", file, *pins)
    assert (code, shown["statement"], shown["mode"]) == (0, "Absent", "ear"), shown
    wrapped = folder / "wrapped.json"  # as other tools keep the same
    (folder / "quote").write_text(json.dumps({"quote": parts["quote"].hex()}))
    (folder / "event-log").write_bytes(base64.b64encode(parts["event-log"]))
    (folder / "collateral").write_text(json.dumps({"collateral": json.loads(parts["collateral"])}))
    assert tools("bundle", "make", *words, "--out", wrapped) == 0, tools.error
    code, same = tools.json("verify", "--bundle", wrapped, *pins)
    assert (code, same["verdict"], same["appraisal"]) == (0, shown["verdict"], shown["appraisal"])
    (folder / "quote").write_bytes(b"password")
    assert tools("bundle", "make", *words, "--out", wrapped) == 2
    assert "QuoteUnreadable" in tools.error
    (folder / "collateral").write_bytes(parts["collateral"])
    (folder / "quote").write_bytes(parts["quote"])
    (folder / "evidence").write_text(evidence.model_dump_json(by_alias=True))
    assert tools("bundle", "make", "--evidence", folder / "evidence", "--collateral", folder / "collateral", "--out", file) == 0
    assert tools("bundle", "make", "--quote", folder / "quote", "--out", file) == 2
    (folder / "evidence").write_text("[]")
    assert tools("bundle", "make", "--evidence", folder / "evidence", "--out", file) == 2


# A broker in a trust domain


@pytest.fixture
def in_td(empty: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Tools]:
    guest = ThreadingHTTPServer(("127.0.0.1", 0), Guests(empty.platform)._handler(CONFIGURATION))
    thread = threading.Thread(target=guest.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    root = {"der": base64.b64encode(empty.platform.root_der).decode()}
    own = {"url": f"http://127.0.0.1:{guest.server_port}", "trustRoot": root}
    members = empty.deps.settings.model_dump(by_alias=True) | {"stateDir": tmp_path / "td", "placement": "InTD", "ownEvidence": own}
    empty.deps.store.close()
    empty.deps = broker_main.assemble(Settings.model_validate(members), clock=empty.clock, fetcher=empty.pccs)
    empty.http = TestClient(create_app(empty.deps))
    for port in serving(empty.deps):
        yield Tools(empty, tmp_path, port, capsys)
    guest.shutdown()
    guest.server_close()
    thread.join()


def broker_policy(tools: Tools, **changes: Any) -> Path:
    values = tools.world.platform.reference_values()
    names = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam", "mrowner", "mrownerconfig")
    entry = {"name": "broker", "mrconfigid": CONFIGURATION.hex()} | {name: values[name] for name in names} | changes
    document = {
        "version": 1,
        "trustRoot": {"der": base64.b64encode(tools.world.platform.root_der).decode()},
        "brokerPlacement": ["InTD"],
        "tdx": {
            "tcb": {"allowedStatuses": ["UpToDate"]},
            "measurements": [entry],
            "tdAttributes": values["tdAttributes"],
            "xfam": values["xfam"],
        },
    }
    path = tools.folder / "broker-policy.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def upload(tools: Tools, *more: object) -> int:
    record, identity = tools.folder / "record.yaml", tools.folder / "identity"
    record.write_text(yaml.safe_dump({"keyId": "acme", "modelDigest": MODEL_DIGEST, "policyName": "workers"}))
    identity.write_text(tools.world.acme.identity)
    return tools("keys", "put", *tools.at, "--record", record, "--owner-key", tools.folder / "acme.key", "--identity", identity, *more)


def test_a_key_goes_only_to_a_broker_that_the_owner_accepts(in_td: Tools) -> None:
    ear_key = in_td.world.deps.keys.ear_public.hex()
    assert upload(in_td, "--broker-policy", broker_policy(in_td, mrtd="ab" * 48)) == 1
    assert "MeasurementNotAllowed" in in_td.error
    assert "The key was not sent." in in_td.error
    assert in_td.world.deps.store.key(in_td.world.acme.public.hex(), "acme") is None
    assert upload(in_td, "--broker-policy", broker_policy(in_td), "--ear-key", "ab" * 32) == 1
    assert in_td.world.deps.store.key(in_td.world.acme.public.hex(), "acme") is None
    assert upload(in_td, "--broker-policy", broker_policy(in_td), "--ear-key", ear_key) == 0, in_td.error
    assert "Simulated" in in_td.error
    assert "The broker holds key" in in_td.said
    assert in_td.world.deps.store.key(in_td.world.acme.public.hex(), "acme") is not None


def test_a_broker_is_judged_by_itself(in_td: Tools) -> None:
    code, shown = in_td.json("keys", "verify-broker", *in_td.at, "--broker-policy", broker_policy(in_td))
    assert documented(shown, "keys verify-broker")
    assert (shown["verdict"], shown["reasons"]) == ("Accepted", [])
    assert (code, shown["mode"], shown["appraisal"]["verdict"]) == (0, "fresh-quote", "Accepted")
    assert in_td("keys", "verify-broker", *in_td.at, "--broker-policy", broker_policy(in_td, mrtd="ab" * 48)) == 1
    assert "MeasurementNotAllowed" in in_td.error


def test_a_broker_elsewhere_is_refused_where_a_policy_is_given(tools: Tools) -> None:
    before = tools.world.deps.store.key(tools.world.acme.public.hex(), "acme").version
    assert upload(tools, "--broker-policy", broker_policy(tools)) == 1
    assert "does not run in a trust domain" in tools.error
    assert tools.world.deps.store.key(tools.world.acme.public.hex(), "acme").version == before


# Reference values


def test_reference_values_are_stored_and_read(tools: Tools, make_publisher: Callable[[], Path]) -> None:
    key = make_publisher()
    assert tools("keys", "show-owner", key) == 0
    publisher = tools.said.strip()
    assert tools("reference", "make", "--release", "0.1.0", "--withdraw", "WorkerImage", "sha256:" + "9" * 64, "old") == 0
    values = tools.folder / "values.json"
    values.write_text(tools.said)
    at = ("--put", tools.at[1], "--pin", tools.at[3])
    assert tools("reference", "get", *tools.at, "--publisher", publisher) == 1
    assert tools.error.startswith("ReferenceValuesMissing: ")
    assert tools("reference", "sign", "-f", values, "--publisher-key", key, *at) == 0, tools.error
    code, shown = tools.json("reference", "get", *tools.at, "--publisher", publisher)
    assert (code, shown["referenceValues"]["release"]) == (0, "0.1.0")
    other = tools.key("other.key", Ed25519PrivateKey.generate())
    assert tools("reference", "sign", "-f", values, "--publisher-key", other, *at) == 1
    assert "PublisherNotAllowed" in tools.error


@pytest.fixture
def make_publisher(world: Any, tools: Tools) -> Callable[[], Path]:
    def make() -> Path:
        key = Ed25519PrivateKey.generate()
        world.deps.references._publishers.add(key.public_key().public_bytes_raw().hex())
        return tools.key("publisher.key", key)

    return make


def test_recalls_are_fetched_checked_and_judged_by(tools: Tools, fetched: Path) -> None:
    ear_key = tools.world.deps.keys.ear_public.hex()
    code, told = tools.json("keys", "recalls", *tools.at, "--ear-key", ear_key)
    assert documented(told, "keys recalls")
    assert (code, told["keys"]) == (0, [])
    code, told = tools.json("keys", "recalls", *tools.at, "--ear-key", "ab" * 32)
    assert (code, told["reasons"][0]["reason"]) == (1, "RecallsInvalid")
    judged = ("verify", "--bundle", fetched, "--ear-key", ear_key, "--owner", tools.world.acme.public.hex())
    assert tools(*judged) == 0, tools.said
    tools.world.deps.ear_keys.recall(reason="stolen")
    out = tools.folder / "recalls"
    code, told = tools.json("keys", "recalls", *tools.at, "--ear-key", ear_key, "--out", out)
    assert (code, len(told["keys"])) == (0, 1)
    assert tools(*judged) == 0, "the bundle is older than the recall"
    assert tools(*judged, "--recalls", out) == 1
    assert "KeyRecalled" in tools.said
    out.write_text("x.y.z")
    assert tools(*judged, "--recalls", out) == 1
    assert "RecallsInvalid" in tools.said
    assert tools(*judged, "--recalls", tools.folder / "none") == 2
    assert tools("keys", "recalls", *tools.at, "--ear-key", "11" * 32) == 1
    assert "RecallsInvalid" in tools.error
    assert tools("verify", fetched, "--recalls", out) == 2, "it belongs to --bundle"
