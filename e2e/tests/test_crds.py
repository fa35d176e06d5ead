"""The API server refuses bad resources with a sentence that says what to do; each row's twin differs in that one place and is taken."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chrysalis.api import names
from chrysalis.api.crd import RESOURCES
from e2e.cluster import Cluster, ClusterError

pytestmark = pytest.mark.cluster
CRDS = Path(__file__).resolve().parents[2] / "crds"
HEX32, HEX48 = "ab" * 32, "cd" * 48
DIGEST = "sha256:" + HEX32
DRY = "default"
"""Where nothing is made: dry runs need no namespace of their own."""
GONE = object()
"""Takes a member away."""

WORKER: dict[str, Any] = {
    "runtimeClassName": names.RUNTIME_CLASS_SIMULATED,
    "image": "chrysalis.local/worker@" + DIGEST,
    "model": {
        "name": "minilm",
        "package": {"url": "http://packages.example/minilm.age", "digest": DIGEST, "sizeBytes": 1},
        "digest": DIGEST,
        "keyId": "minilm-key",
    },
    "policyRef": {"name": "minilm-policy"},
    "broker": {"url": "https://broker.example:8443", "spkiSha256": HEX32, "earKey": HEX32},
    "settlementAccountRef": {"name": "pool"},
    "payout": {"wallet": "UQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAJKZ"},
    "prices": {"prompt": 1},
}
REGISTERS = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam", "mrowner", "mrownerconfig")
POLICY: dict[str, Any] = {
    "version": 2,
    "trustRoot": {"der": "AAAA"},
    "tdx": {
        "tcb": {"allowedStatuses": ["UpToDate"]},
        "measurements": [
            {"name": "exact", **dict.fromkeys(REGISTERS, "Any"), "mrconfigid": HEX48},
            {
                "name": "rule",
                **dict.fromkeys(REGISTERS, HEX48),
                "initdata": {"policyDigests": [DIGEST], "templateVersions": [1], "imageDigests": [DIGEST], "wallets": "Any"},
            },
        ],
        "tdAttributes": {"value": "00" * 8, "mask": "ff" * 8},
        "xfam": {"value": "00" * 8, "mask": "ff" * 8},
    },
}
ACCOUNT: dict[str, Any] = {
    "funding": "OwnerFunded",
    "globalId": -217,
    "contract": "0:" + HEX32,
    "liteservers": [{"host": "192.0.2.7", "port": 4443, "key": HEX32}],
    "reservationKeys": [HEX32],
}
SPECS = {names.KIND_WORKER: WORKER, names.KIND_POLICY: POLICY, names.KIND_ACCOUNT: ACCOUNT}


@pytest.fixture(scope="module")
def definitions(cluster: Cluster) -> Iterator[None]:
    """The definitions of this checkout, unless the chart has installed them."""
    wanted = [f"crd/{resource.plural}.{names.GROUP}" for resource in RESOURCES]
    installed = cluster.kubectl("get", "crd", "--ignore-not-found", "-o", "name")
    ours = RESOURCES[0].plural not in installed
    if ours:
        cluster.kubectl("apply", "--server-side", "-f", str(CRDS))
        cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", *wanted)
    yield
    if ours:
        cluster.kubectl("delete", *wanted)


def resource(kind: str, name: str = "sample", **changes: Any) -> dict[str, Any]:
    """A good resource of a kind, with members of its spec changed; a name may be a path such as model.keyId or list.0.name."""
    spec = copy.deepcopy(SPECS[kind])
    for path, value in changes.items():
        *parents, last = path.split("__")
        node: Any = spec
        for parent in parents:
            node = node[int(parent)] if isinstance(node, list) else node.setdefault(parent, {})
        if value is GONE:
            node.pop(last)
        else:
            node[last] = value
    return {"apiVersion": names.API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


def create(cluster: Cluster, namespace: str, body: dict[str, Any], *flags: str) -> None:
    cluster.kubectl("create", "--namespace", namespace, "-f", "-", *flags, input=json.dumps(body))


def refusal(cluster: Cluster, namespace: str, body: dict[str, Any], *, verb: str = "create") -> str:
    """The API server's words about a resource that it must not take."""
    with pytest.raises(ClusterError) as caught:
        cluster.kubectl(verb, "--namespace", namespace, "-f", "-", "--dry-run=server", input=json.dumps(body))
    return f"{caught.value.message} {caught.value.detail}"


ENVELOPE = {"payloadType": "x", "payload": "", "signatures": [{"keyid": "a", "sig": "b"}]}
RULE = "tdx__measurements__1__initdata"
BAD: list[tuple[str, dict[str, Any], str]] = [
    (names.KIND_WORKER, {"image": "chrysalis.local/worker:1"}, "name the image by its digest"),
    (names.KIND_WORKER, {"image": "chrysalis.local/worker:1@sha256:abc"}, "name the image by its digest"),
    (names.KIND_WORKER, {"prices__prompt": -1}, "set a whole number of nanoton"),
    (names.KIND_WORKER, {"prices__job": 2**53}, "set a whole number of nanoton"),
    (names.KIND_WORKER, {"payout": GONE}, "set spec.payout.wallet"),
    (names.KIND_WORKER, {"payout__wallet": "0:abc"}, "give the address of a TON wallet"),
    (names.KIND_WORKER, {"payout__wallet": "EfAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAADtM"}, "give the address of a TON wallet"),
    (names.KIND_WORKER, {"colour": "red"}, 'unknown field "spec.colour"'),
    (names.KIND_WORKER, {"model__colour": "red"}, 'unknown field "spec.model.colour"'),
    (names.KIND_WORKER, {"runtimeClassName": GONE}, "Required"),
    (names.KIND_WORKER, {"isolation": "None"}, "PodTD"),
    (names.KIND_WORKER, {"resources__cpu": "lots"}, "write cores or millicores"),
    (names.KIND_WORKER, {"model__name": "x" * 64}, "model.name"),
    (names.KIND_WORKER, {"replicas": -1}, "replicas"),
    (names.KIND_POLICY, {"version": 0}, "version"),
    (names.KIND_POLICY, {"trustRoot": "AMD"}, "trustRoot"),
    (names.KIND_POLICY, {"trustRoot": 5}, "trustRoot"),
    (names.KIND_POLICY, {"trustRoot": {"der": "!"}}, "trustRoot"),
    (names.KIND_POLICY, {"trustRoot": {"der": "AAAA", "pem": "x"}}, "trustRoot"),
    (names.KIND_POLICY, {"tdx__measurements__0__mrconfigid": GONE}, "give exactly one of mrconfigid and initdata"),
    (names.KIND_POLICY, {"tdx__measurements__1__mrconfigid": HEX48}, "give exactly one of mrconfigid and initdata"),
    (names.KIND_POLICY, {"tdx__measurements__0__mrtd": "ab"}, "mrtd"),
    (names.KIND_POLICY, {"tdx__measurements__0__mrtd": GONE}, "mrtd"),
    (names.KIND_POLICY, {f"{RULE}__wallets": "Some"}, "wallets"),
    (names.KIND_POLICY, {f"{RULE}__wallets": [5]}, "wallets"),
    (names.KIND_POLICY, {"tdx__tcb__allowedStatuses": ["Revoked"]}, "allowedStatuses"),
    (
        names.KIND_POLICY,
        {"envelope": {"payloadType": "x", "payload": "", "signatures": [{"keyid": "a", "sig": "b"}]}},
        "spec.ownerPublicKey",
    ),
    (names.KIND_ACCOUNT, {"contract": GONE}, "set spec.contract"),
    (names.KIND_ACCOUNT, {"reservationKeys": []}, "set spec.contract, spec.reservationKeys"),
    (names.KIND_ACCOUNT, {"contract": "-1:" + HEX32}, "contract"),
    (names.KIND_ACCOUNT, {"clients": [{"key": HEX32, "dailyCapNanoton": "-1"}]}, "dailyCapNanoton"),
]


@pytest.mark.parametrize(("kind", "changes", "words"), BAD, ids=[f"{kind}-{'-'.join(c)}-{n}" for n, (kind, c, _) in enumerate(BAD)])
def test_bad_input_is_refused(definitions: None, cluster: Cluster, kind: str, changes: dict[str, Any], words: str) -> None:
    assert words in refusal(cluster, DRY, resource(kind, **changes))
    create(cluster, DRY, resource(kind), "--dry-run=server")


GOOD: list[tuple[str, dict[str, Any]]] = [
    (names.KIND_WORKER, {"payout__wallet": "0:" + "AB" * 32}),
    # A wrong checksum is beyond CEL: the operator says WalletAddressInvalid and starts no pod.
    (names.KIND_WORKER, {"payout__wallet": "UQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAJKA"}),
    (names.KIND_WORKER, {"payout": GONE, "settlementAccountRef": GONE}),
    (names.KIND_WORKER, {"prices__job": 2**53 - 1}),
    (names.KIND_POLICY, {"trustRoot": "Intel"}),
    (names.KIND_POLICY, {f"{RULE}__wallets": []}),
    (names.KIND_ACCOUNT, {"funding": "None", "contract": GONE, "liteservers": [], "reservationKeys": []}),
]


@pytest.mark.parametrize(("kind", "changes"), GOOD, ids=[f"{kind}-{n}" for n, (kind, _) in enumerate(GOOD)])
def test_good_input_is_taken(definitions: None, cluster: Cluster, kind: str, changes: dict[str, Any]) -> None:
    create(cluster, DRY, resource(kind, **changes), "--dry-run=server")


CHANGES: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    (names.KIND_WORKER, {"isolation": "NodeTD"}, "spec.isolation cannot be changed", {"replicas": 2}),
    (names.KIND_WORKER, {"runtimeClassName": "other"}, "spec.runtimeClassName cannot be changed", {"templateVersion": 1}),
    (names.KIND_POLICY, {"version": 1}, "spec.version only grows", {"version": 3}),
    (names.KIND_ACCOUNT, {"contract": "0:" + "00" * 32}, "spec.contract cannot be changed", {"intervalSeconds": 7}),
    (names.KIND_ACCOUNT, {"feeBps": 1}, "spec.feeBps cannot be changed", {"clients": []}),
    (names.KIND_ACCOUNT, {"globalId": -239}, "spec.globalId cannot be changed", {"intervalSeconds": 5}),
    (names.KIND_ACCOUNT, {"funding": "ClientFunded"}, "spec.funding cannot be changed", {"reservationKeys": [HEX32, HEX32]}),
]


@pytest.mark.parametrize(("kind", "changes", "words", "allowed"), CHANGES, ids=[f"{kind}-{'-'.join(c)}" for kind, c, _, _ in CHANGES])
def test_what_cannot_change(
    definitions: None, cluster: Cluster, namespace: str, kind: str, changes: dict[str, Any], words: str, allowed: dict[str, Any]
) -> None:
    create(cluster, namespace, resource(kind))
    assert words in refusal(cluster, namespace, resource(kind, **changes), verb="replace")
    cluster.kubectl("replace", "--namespace", namespace, "-f", "-", "--dry-run=server", input=json.dumps(resource(kind, **allowed)))


def test_names_that_no_child_could_have(definitions: None, cluster: Cluster) -> None:
    assert "52" in refusal(cluster, DRY, resource(names.KIND_WORKER, name="x" * 53))
    assert "name the worker" in refusal(cluster, DRY, resource(names.KIND_WORKER, name="a.b"))
    assert "name the worker" in refusal(cluster, DRY, resource(names.KIND_WORKER, name="7b"))
    create(cluster, DRY, resource(names.KIND_WORKER, name="x" * 52), "--dry-run=server")


def test_an_old_client_loses_unknown_fields_rather_than_storing_them(definitions: None, cluster: Cluster, namespace: str) -> None:
    create(cluster, namespace, resource(names.KIND_WORKER, colour="red"), "--validate=ignore")
    assert "colour" not in cluster.get("cw/sample", "--namespace", namespace)["spec"]


def test_scale_short_names_categories_and_columns(definitions: None, cluster: Cluster, namespace: str) -> None:
    for kind in SPECS:
        create(cluster, namespace, resource(kind))
    cluster.kubectl("scale", "cw/sample", "--replicas=3", "--namespace", namespace)
    assert cluster.get("cw/sample", "--namespace", namespace)["spec"]["replicas"] == 3
    shown = cluster.kubectl("get", "chrysalis", "--namespace", namespace)
    assert shown.count("sample") == 3
    header = cluster.kubectl("get", "cw", "--namespace", namespace).splitlines()[0].split()
    assert header == ["NAME", "READY", "REASON", "PROFILE", "TCB", "EXPIRES", "REPLICAS", "SERVING", "EARNED", "AGE"]
    assert "sample" in cluster.kubectl("get", "apol,sacct", "--namespace", namespace)


def test_only_the_status_subresource_writes_status(definitions: None, cluster: Cluster, namespace: str) -> None:
    body = resource(names.KIND_WORKER) | {"status": {"replicas": 7}}
    create(cluster, namespace, body)
    assert "status" not in cluster.get("cw/sample", "--namespace", namespace)
    patch = json.dumps({"status": {"replicas": 2}, "spec": {"replicas": 9}})
    cluster.kubectl("patch", "cw/sample", "--subresource=status", "--type=merge", "--patch", patch, "--namespace", namespace)
    found = cluster.get("cw/sample", "--namespace", namespace)
    assert (found["status"]["replicas"], found["spec"]["replicas"]) == (2, 1)
