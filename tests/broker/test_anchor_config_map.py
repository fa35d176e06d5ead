"""The anchor in a ConfigMap: an API server in this process, with its resourceVersions, its conflicts and its failures."""

from __future__ import annotations

import base64
import copy
import json
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.broker import anchor_places, anchors
from chrysalis.broker.anchor_keeper import Keeper
from chrysalis.broker.anchor_places import ConfigMapPlace
from chrysalis.broker.anchor_settings import ConfigMapName
from chrysalis.broker.anchors import Anchor, State
from chrysalis.broker.kubernetes_settings import KubernetesSettings
from chrysalis.broker.reasons import BrokerError
from chrysalis.broker.settings import Settings
from chrysalis.clock import ManualClock, unix

World = Any
PATH = "/api/v1/namespaces/chrysalis-system/configmaps/chrysalis-broker-anchor"
KEY = Ed25519PrivateKey.generate()


class SimulatedApi:
    """Keeps one ConfigMap as an API server does: PUT counts only on the newest resourceVersion."""

    def __init__(self, token: Path) -> None:
        token.write_text("own\n")
        self.token = token
        self.version = 7
        self.object: dict[str, Any] | None = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "chrysalis-broker-anchor", "namespace": "chrysalis-system", "labels": {"kept": "yes"}},
        }
        self.down = False
        self.status: int | None = None
        self.before_put: Callable[[], None] = lambda: None
        self.calls: list[str] = []
        self._lock = threading.Lock()

    def handle(self, request: httpx.Request) -> httpx.Response:
        assert (request.url.path, request.headers["authorization"]) == (PATH, "Bearer own")
        if request.method == "PUT":
            self.before_put()
        with self._lock:
            self.calls.append(request.method)
            if self.down:
                raise httpx.ConnectError("refused", request=request)
            if self.status is not None:
                return httpx.Response(self.status, json={"kind": "Status"})
            if self.object is None:
                return httpx.Response(404, json={"kind": "Status", "reason": "NotFound"})
            if request.method == "PUT":
                new = json.loads(request.content)
                if new["metadata"]["resourceVersion"] != str(self.version):
                    return httpx.Response(409, json={"kind": "Status", "reason": "Conflict"})
                self.version += 1
                self.object = new
            shown = copy.deepcopy(self.object)
            shown["metadata"]["resourceVersion"] = str(self.version)
            return httpx.Response(200, json=shown)

    def place(self, clock: ManualClock) -> ConfigMapPlace:
        name = ConfigMapName(namespace="chrysalis-system", name="chrysalis-broker-anchor")
        return ConfigMapPlace(name, KubernetesSettings(token_file=self.token), clock, httpx.MockTransport(self.handle))


@pytest.fixture
def api(tmp_path: Path) -> SimulatedApi:
    return SimulatedApi(tmp_path / "token")


@pytest.fixture
def anchor(api: SimulatedApi, clock: ManualClock) -> Anchor:
    return Anchor(api.place(clock), KEY)


def state(seq: int) -> State:
    return State(audit_seq=seq, audit_hash=f"{seq:064x}")


def reason(action: Callable[[], Any]) -> str:
    with pytest.raises(BrokerError) as caught:
        action()
    assert caught.value.remedy
    return str(caught.value.reason)


def test_it_keeps_what_was_noted_and_the_object_as_it_is(api: SimulatedApi, anchor: Anchor) -> None:
    assert anchor.read() is None
    anchor.advance(state(3))
    assert anchor.read() == state(3)
    assert api.object is not None
    assert api.object["metadata"]["labels"] == {"kept": "yes"}
    assert set(api.object["binaryData"]) == {"anchor"}


def test_it_never_goes_back_by_itself(anchor: Anchor) -> None:
    for seq in (3, 9, 5):
        anchor.advance(state(seq))
    assert anchor.read() == state(9)
    anchor.replace(state(2))  # only where a rollback was accepted
    assert anchor.read() == state(2)


def test_of_two_replicas_that_write_at_once_the_newer_state_stays(api: SimulatedApi, anchor: Anchor, clock: ManualClock) -> None:
    """The other replica writes between this one's look and its write: what was seen is not what is there, so it looks again."""
    other = Anchor(api.place(clock), KEY)

    def first() -> None:
        api.before_put = lambda: None
        other.advance(state(9))

    api.before_put = first
    anchor.advance(state(5))
    assert anchor.read() == state(9)
    api.before_put = first
    anchor.advance(state(11))
    assert anchor.read() == state(11)
    assert api.calls.count("PUT") == 3  # the other's 9; this one's 5, refused for what it had not seen; this one's 11


def test_many_replicas_take_turns(api: SimulatedApi, clock: ManualClock) -> None:
    failures: list[BaseException] = []

    def note(start: int) -> None:
        own = Anchor(api.place(clock), KEY)
        for seq in range(start, 60, 3):
            try:
                own.advance(state(seq))
            except BrokerError as error:
                failures.append(error)

    threads = [threading.Thread(target=note, args=(start,)) for start in range(1, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = Anchor(api.place(clock), KEY).read()
    assert found is not None
    assert found.audit_seq >= 57
    assert not [failure for failure in failures if "faster" not in str(getattr(failure, "detail", ""))]


def _gone(api: SimulatedApi) -> None:
    api.object = None


def _down(api: SimulatedApi) -> None:
    api.down = True


def _forbidden(api: SimulatedApi) -> None:
    api.status = 403


def _no_token(api: SimulatedApi) -> None:
    api.token.unlink()


@pytest.mark.parametrize("break_it", [_gone, _down, _forbidden, _no_token])
def test_an_api_server_that_does_not_answer_well_is_no_empty_anchor(
    api: SimulatedApi, anchor: Anchor, break_it: Callable[[SimulatedApi], None]
) -> None:
    assert anchor.read() is None  # the twin
    break_it(api)
    assert reason(anchor.read) == "AnchorUnusable"
    assert reason(lambda: anchor.advance(state(1))) == "AnchorUnusable"


BOMB = zlib.compress(b"\0" * (anchor_places.MAX_ANCHOR_BYTES + 1))


@pytest.mark.parametrize("entry", ["", "!", "AAAA", 7, base64.b64encode(zlib.compress(b"{}")).decode(), base64.b64encode(BOMB).decode()])
def test_what_this_broker_did_not_write_is_refused(api: SimulatedApi, anchor: Anchor, entry: Any) -> None:
    anchor.advance(state(1))
    assert anchor.read() == state(1)  # the twin
    assert api.object is not None
    api.object["binaryData"]["anchor"] = entry
    assert reason(anchor.read) == "AnchorInvalid"
    assert reason(lambda: anchor.advance(state(2))) == "AnchorInvalid"


def test_more_than_an_object_holds_is_refused(anchor: Anchor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchor_places, "MAX_ENTRY_BYTES", 2048)
    anchor.advance(state(1))
    many = State(audit_seq=2, audit_hash="00" * 32, keys={f"{number * 0x9E3779B97F4A7C15 % (1 << 256):064x}/k": 1 for number in range(200)})
    assert reason(lambda: anchor.advance(many)) == "AnchorUnusable"
    assert anchor.read() == state(1)


def test_a_keeper_over_an_api_server_that_is_away_for_a_moment(world: World, api: SimulatedApi) -> None:
    anchor = Anchor(api.place(world.clock), world.deps.keys.ear_key)
    keeper = Keeper(world.deps.store.database, anchor, 10, world.clock)
    keeper.follow()
    api.down = True
    assert world.put_policy(world.acme, version=2).status_code == 201  # nobody is refused
    keeper.follow()
    assert not keeper.stale
    world.clock.advance(5)
    keeper.follow()
    assert keeper.stale
    api.down = False
    keeper.follow()
    assert not keeper.stale
    noted = anchor.read()
    assert noted is not None
    assert noted.audit_seq == world.deps.store.audit_head()[0]


def test_an_object_that_was_emptied_is_missed_and_accepted(world: World, api: SimulatedApi) -> None:
    database = world.deps.store.database
    anchor, now = Anchor(api.place(world.clock), world.deps.keys.ear_key), unix(world.clock.now())
    assert anchors.check(database, anchor) is None
    anchors.begin(database, anchor, now)
    assert anchors.check(database, anchor) is not None  # the twin
    assert api.object is not None
    api.object["binaryData"] = {}
    assert reason(lambda: anchors.check(database, anchor)) == "AnchorMissing"
    assert anchors.accept(database, anchor, now, "deleted by mistake") == ["nothing lies at the anchor's place"]
    assert anchors.check(database, anchor) is not None


def test_a_config_map_needs_a_cluster(world: World) -> None:
    members = {"stateDir": "/x", "placement": "Development", "anchor": {"configMap": {"namespace": "n", "name": "m"}}}
    with pytest.raises(ValueError, match="kubernetes"):
        Settings.model_validate(members)
    found = Settings.model_validate(members | {"kubernetes": {}})
    made = anchors.of(found, KEY, world.clock)
    assert made is not None
    assert isinstance(made._place, ConfigMapPlace)
