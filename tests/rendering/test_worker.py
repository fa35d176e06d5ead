"""render: golden bytes, and what they must hold for the guest, the agent and pod security."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from chrysalis.api import initdata, names
from chrysalis.api.account import SettlementAccountSpec
from chrysalis.api.wallet import WalletError
from chrysalis.api.worker import ConfidentialWorkerSpec
from chrysalis.rendering import RenderError, owned, render
from chrysalis.rendering.identity import COMMANDS

GOLDEN = Path(__file__).parent / "golden"


def test_template_version_1_does_not_move(spec: ConfidentialWorkerSpec, account: SettlementAccountSpec) -> None:
    """A difference here is a new measurement of every worker: it needs a new template version, not a new golden file."""
    rendered = render("embedder", "pool", spec, account)
    assert rendered.toml == (GOLDEN / "initdata-v1.toml").read_bytes()
    assert rendered.mrconfigid.hex() == (GOLDEN / "mrconfigid-v1.txt").read_text().strip()


def test_the_children_are_as_reviewed(spec: ConfidentialWorkerSpec, account: SettlementAccountSpec) -> None:
    children = render("embedder", "pool", spec, account).children
    for child in children:  # packed by zlib, whose bytes may differ from version to version; what it unpacks to may not
        if child["kind"] == "Deployment":
            annotations = child["spec"]["template"]["metadata"]["annotations"]
            assert initdata.from_annotation(annotations[names.ANNOTATION_INITDATA]) == (GOLDEN / "initdata-v1.toml").read_bytes()
            annotations[names.ANNOTATION_INITDATA] = "packed"
    assert children == list(yaml.safe_load_all((GOLDEN / "children-v1.yaml").read_text()))


@pytest.mark.parametrize(("isolated", "said"), [(True, ""), (False, "planted")])
def test_the_working_directory_brings_no_code(tmp_path: Path, isolated: bool, said: str) -> None:
    """The host chooses a container's working directory; without -I, Python would take the worker's modules from there."""
    for command in COMMANDS.values():
        package, _, module = command[-1].partition(".")
        (tmp_path / package).mkdir(exist_ok=True)
        (tmp_path / package / f"{module}.py").write_text("print('planted')")
        argv = [sys.executable, *(word for word in command[1:] if isolated or word != "-I")]
        done = subprocess.run(argv, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path) if isolated else ""}, capture_output=True, text=True)
        assert done.stdout.strip() == said


def test_the_measured_bytes_are_read_back(spec: ConfidentialWorkerSpec, account: SettlementAccountSpec) -> None:
    rendered = render("embedder", "pool", spec, account)
    assert rendered.mrconfigid == hashlib.sha384(rendered.toml).digest()
    assert initdata.parse(rendered.toml) == rendered.initdata
    identity = rendered.initdata.identity
    assert identity.wallet == "0:" + "00" * 32
    assert identity.set == "-217:0:" + "c0" * 32
    assert identity.reservation_keys == ["2b" * 32]
    assert identity.broker.spki_sha256 == "ab" * 32
    assert identity.image_digest == "sha256:" + "11" * 32
    assert rendered.policy_digest == initdata.policy_digest(rendered.toml)


def test_name_namespace_and_replicas_are_not_measured(spec: ConfidentialWorkerSpec, account: SettlementAccountSpec) -> None:
    more = spec.model_copy(update={"replicas": 7})
    assert render("a", "x", spec, account).mrconfigid == render("b", "y", more, account).mrconfigid


def changed(spec: ConfidentialWorkerSpec, **members: Any) -> ConfidentialWorkerSpec:
    return ConfidentialWorkerSpec.model_validate({**spec.to_json_dict(), **members})


@pytest.mark.parametrize(
    "members",
    [
        {"payout": {"wallet": "0:" + "01" * 32}},
        {"image": "registry.example/chrysalis-worker@sha256:" + "12" * 32},
        {"policyRef": {"name": "other"}},
        {"broker": {"url": "https://broker.example:8443", "spkiSha256": "ab" * 32, "earKey": "ce" * 32}},
        {"prices": {"prompt": 50_000_001}},
    ],
)
def test_what_money_and_trust_rest_on_is_measured(
    spec: ConfidentialWorkerSpec, account: SettlementAccountSpec, members: dict[str, Any]
) -> None:
    before = render("a", "x", spec, account)
    assert render("a", "x", changed(spec, **members), account).mrconfigid != before.mrconfigid
    assert render("a", "x", changed(spec), account).mrconfigid == before.mrconfigid  # the twin


def test_the_keys_owner_is_measured_where_it_is_named(spec: ConfidentialWorkerSpec, account: SettlementAccountSpec) -> None:
    model = spec.model.to_json_dict()
    before = render("a", "x", spec, account)
    assert b"keyOwner" not in before.toml  # what was measured before the member came stays as it was
    named, capitals, other = (
        render("a", "x", changed(spec, model=model | {"keyOwner": key}), account) for key in ("ab" * 32, "AB" * 32, "ac" * 32)
    )
    assert named.toml == capitals.toml
    assert len({before.mrconfigid, named.mrconfigid, other.mrconfigid}) == 3
    assert named.initdata.identity.model.key_owner == "ab" * 32


def test_capitals_do_not_change_the_measurement(spec: ConfidentialWorkerSpec, account: SettlementAccountSpec) -> None:
    lower = changed(spec, broker={"url": "https://broker.example:8443", "spkiSha256": "ab" * 32, "earKey": "CD" * 32})
    assert render("a", "x", lower, account).toml == render("a", "x", spec, account).toml


def test_a_worker_without_an_account_measures_none(spec: ConfidentialWorkerSpec, account: SettlementAccountSpec) -> None:
    free = ConfidentialWorkerSpec.model_validate(
        {k: v for k, v in spec.to_json_dict().items() if k not in {"settlementAccountRef", "payout"}}
    )
    identity = render("a", "x", free, account).initdata.identity
    assert (identity.set, identity.wallet, identity.reservation_keys, identity.liteservers) == ("none", "", [], [])


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"isolation": "NodeTD"}, "IsolationNotSupported"),
        ({"payout": {"wallet": "UQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAJKA"}}, "WalletAddressInvalid"),
        ({"payout": {"wallet": "0QAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAACkT"}}, None),  # a test network's, not on mainnet
    ],
)
def test_refusals(spec: ConfidentialWorkerSpec, account: SettlementAccountSpec, members: dict[str, Any], reason: str | None) -> None:
    if reason is None:
        render("a", "x", changed(spec, **members), account)
        mainnet = account.model_copy(update={"global_id": -239})
        with pytest.raises(WalletError, match="mainnet"):
            render("a", "x", changed(spec, **members), mainnet)
        return
    with pytest.raises((RenderError, WalletError)) as caught:
        render("a", "x", changed(spec, **members), account)
    assert caught.value.reason == reason
    assert caught.value.remedy
    render("a", "x", spec, account)  # the twin


def test_a_missing_account_is_refused(spec: ConfidentialWorkerSpec) -> None:
    with pytest.raises(RenderError) as caught:
        render("a", "x", spec, None)
    assert caught.value.reason == "AccountNotFound"


def containers(spec: ConfidentialWorkerSpec, account: SettlementAccountSpec) -> dict[str, dict[str, Any]]:
    pod = render("a", "x", spec, account).pod_template["spec"]
    return {c["name"]: c for c in pod["initContainers"] + pod["containers"]}


def test_the_guest_allows_exactly_the_containers_of_the_pod(spec: ConfidentialWorkerSpec, account: SettlementAccountSpec) -> None:
    allowed = {c.name: (c.image, c.args) for c in render("a", "x", spec, account).initdata.containers}
    assert allowed == {name: (c["image"], c["command"]) for name, c in containers(spec, account).items()}
    assert all("args" not in c and "env" not in c for c in containers(spec, account).values())


def test_the_pod_keeps_to_the_restricted_profile(spec: ConfidentialWorkerSpec, account: SettlementAccountSpec) -> None:
    pod = render("a", "x", spec, account).pod_template["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "nodeName"} & set(pod)
    for volume in pod["volumes"]:
        assert set(volume) <= {"name", "emptyDir", "downwardAPI"}
        assert "emptyDir" not in volume or volume["emptyDir"]["medium"] == "Memory"
    for container in containers(spec, account).values():
        security = container["securityContext"]
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert "exec" not in str([container.get(f"{p}Probe") for p in ("startup", "liveness", "readiness")])


def test_only_the_gateway_sees_receipts_and_only_it_writes_the_model(spec: ConfidentialWorkerSpec, account: SettlementAccountSpec) -> None:
    found = containers(spec, account)
    mounts = {name: {m["mountPath"]: m.get("readOnly", False) for m in c["volumeMounts"]} for name, c in found.items()}
    assert mounts["gateway"] == {"/run/model": False, "/run/triton": False, "/run/receipts": False, "/tmp": False, "/run/podinfo": True}
    assert mounts["triton"] == {"/run/model": True, "/run/triton": False, "/tmp": False, "/dev/shm": False}
    assert found["gateway"]["restartPolicy"] == "Always"
    assert not any(key.endswith("Probe") for key in found["triton"])


def test_gates(spec: ConfidentialWorkerSpec, account: SettlementAccountSpec) -> None:
    pod = render("a", "x", spec, account).pod_template["spec"]
    assert pod["schedulingGates"] == [{"name": names.GATE_ATTESTATION}]
    assert pod["readinessGates"] == [{"conditionType": names.READINESS_ATTESTED}]


def test_owned_objects_are_collected_with_the_worker(spec: ConfidentialWorkerSpec, account: SettlementAccountSpec) -> None:
    children = render("embedder", "pool", spec, account).children
    for child in owned(children, name="embedder", uid="u-1"):
        (reference,) = child["metadata"]["ownerReferences"]
        assert (reference["uid"], reference["controller"]) == ("u-1", True)
    assert all("ownerReferences" not in child["metadata"] for child in children)
