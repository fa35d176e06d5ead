"""The chart: lint, what values are refused, and what every rendering must hold.  Needs helm; without it, only files are compared."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from chrysalis.api import names
from chrysalis.api.crd import RESOURCES, definition
from chrysalis.broker.settings import Settings as BrokerSettings
from chrysalis.controller.settings import Settings as ControllerSettings
from chrysalis.settlement.settings import Settings as SettlerSettings

pytestmark = pytest.mark.slow

DATABASE = "broker.database.url=postgresql+psycopg://chrysalis@db.example/broker"
CHART = Path(__file__).resolve().parents[2] / "helm" / "chrysalis"
IMAGE = "registry.example/chrysalis@sha256:" + "ab" * 32
SETTLER = [
    "settler.enabled=true",
    "settler.keysSecret=keys",
    "settler.broker.spkiSha256=" + "cd" * 32,
    "settler.broker.earKey=" + "ef" * 32,
]


@pytest.fixture(scope="session")
def helm() -> str:
    """helm as the cluster's build keeps it, or as it is installed."""
    cache = Path(os.environ.get("CACHE") or Path.home() / ".cache" / "chrysalis")
    built = sorted(cache.glob("*/helm"))
    found = shutil.which("helm") or (str(built[-1]) if built else None)
    if found is None:
        pytest.skip("no helm here; the scenarios on the cluster install the chart")
    return found


def run(helm: str, *values: str, command: str = "template", json_values: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    settings = [part for value in values for part in ("--set-string" if "Sha256" in value or "earKey" in value else "--set", value)]
    settings += [part for value in json_values for part in ("--set-json", value)]
    named = ["chrysalis"] if command == "template" else []
    return subprocess.run([helm, command, *named, str(CHART), "--namespace", "chrysalis-system", *settings], capture_output=True, text=True)


def rendered(helm: str, *values: str) -> list[dict[str, Any]]:
    """The objects of a rendering."""
    done = run(helm, f"image={IMAGE}", *values)
    assert done.returncode == 0, done.stderr
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """name → object, for one kind."""
    return {o["metadata"]["name"]: o for o in objects if o["kind"] == kind}


def test_lint(helm: str) -> None:
    done = run(helm, f"image={IMAGE}", *SETTLER, command="lint")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ([], "image"),
        (["image=registry.example/chrysalis:1"], "image"),
        ([f"image={IMAGE}", "colour=red"], "colour"),
        ([f"image={IMAGE}", "broker.owners={}"], "owners"),
        ([f"image={IMAGE}", "broker.tenants[0].owners={}"], "name"),
        ([f"image={IMAGE}", "broker.placement=InTD"], "placement"),
        ([f"image={IMAGE}", "broker.anchor.name=chrysalis-broker"], "name"),
        ([f"image={IMAGE}", "broker.anchor.maxStalenessSeconds=0"], "maxStalenessSeconds"),
        ([f"image={IMAGE}", "broker.replicas=2"], "replicas"),
        ([f"image={IMAGE}", "broker.replicas=2", DATABASE], "rootKeySecret"),
        ([f"image={IMAGE}", DATABASE], "rootKeySecret"),
        ([f"image={IMAGE}", "broker.database.url=sqlite:///x"], "url"),
        ([f"image={IMAGE}", "broker.database.passwordSecret=p"], "passwordSecret"),
        ([f"image={IMAGE}", "settler.enabled=true"], "keysSecret"),
        ([f"image={IMAGE}", "operator.replicas=0"], "replicas"),
        ([f"image={IMAGE}", "operator.replicas=2", *SETTLER], "one database on one volume"),
    ],
)
def test_values_that_are_refused(helm: str, values: list[str], word: str) -> None:
    done = run(helm, *values)
    assert done.returncode != 0
    assert word in done.stderr
    assert run(helm, f"image={IMAGE}").returncode == 0  # the twin


def test_the_definitions_are_the_generated_ones(helm: str) -> None:
    found = of_kind(rendered(helm), "CustomResourceDefinition")
    for resource in RESOURCES:
        expected = definition(resource)
        shown = found[expected["metadata"]["name"]]
        assert shown["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        assert json.dumps(shown, sort_keys=True) == json.dumps(expected, sort_keys=True)
    assert not of_kind(rendered(helm, "crds.enabled=false"), "CustomResourceDefinition")
    loose = of_kind(rendered(helm, "crds.keep=false"), "CustomResourceDefinition")
    assert all("annotations" not in crd["metadata"] for crd in loose.values())


def test_each_process_reads_its_configuration(helm: str) -> None:
    owners = "broker.tenants[0].name=acme,broker.tenants[0].owners={" + "12" * 32 + "}"
    maps = of_kind(rendered(helm, *SETTLER, "broker.collateral.url=http://pccs.example:8081", owners), "ConfigMap")
    controller = ControllerSettings.model_validate(yaml.safe_load(maps["chrysalis-operator"]["data"]["controller.yaml"]))
    assert controller.lease.namespace == "chrysalis-system"
    broker = BrokerSettings.model_validate(yaml.safe_load(maps["chrysalis-broker"]["data"]["broker.yaml"]))
    assert [(tenant.name, tenant.owners) for tenant in broker.tenants] == [("acme", ["12" * 32])]
    assert broker.oidc == []
    assert broker.kubernetes is not None
    assert broker.kubernetes.service_accounts == [f"chrysalis-system:{names.SERVICE_ACCOUNT_OPERATOR}"]
    settler = SettlerSettings.model_validate(yaml.safe_load(maps["chrysalis-operator"]["data"]["settler.yaml"]))
    assert settler.broker.spki_sha256 == "cd" * 32
    assert "settler.yaml" not in of_kind(rendered(helm), "ConfigMap")["chrysalis-operator"]["data"]


def test_collateral_from_files_and_from_a_pccs_of_ones_own(helm: str) -> None:
    options = ("broker.collateral.caConfigMap=pccs-ca", "broker.collateral.preloadConfigMap=intel", "broker.collateral.update=early")
    maps = of_kind(rendered(helm, *options, "broker.collateral.rootCrlUrl=https://pccs.example/root.crl"), "ConfigMap")
    found = BrokerSettings.model_validate(yaml.safe_load(maps["chrysalis-broker"]["data"]["broker.yaml"])).collateral
    assert (found.update, found.root_crl_url, found.timeout_seconds) == ("early", "https://pccs.example/root.crl", 10)
    (pod,) = [d["spec"]["template"]["spec"] for name, d in of_kind(rendered(helm, *options), "Deployment").items() if "broker" in name]
    mounted = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume.get("configMap", {}).get("name") for volume in pod["volumes"]}
    assert found.preload == [Path(mounted["collateral"])]
    assert found.ca_file == Path(mounted["collateral-ca"]) / "ca.crt"
    assert (volumes["collateral"], volumes["collateral-ca"]) == ("intel", "pccs-ca")


def test_nvidias_services_are_asked_where_they_are_named(helm: str) -> None:
    def settings(*options: str) -> BrokerSettings:
        maps = of_kind(rendered(helm, *options), "ConfigMap")
        return BrokerSettings.model_validate(yaml.safe_load(maps["chrysalis-broker"]["data"]["broker.yaml"]))

    assert (settings().gpu.nras, settings().gpu.ocsp) == (None, None)
    nras, ocsp = "broker.gpu.nras.url=https://nras.example", "broker.gpu.ocsp.url=http://ocsp.example"
    one = settings(nras).gpu
    assert (one.nras is not None and one.nras.keys_url, one.ocsp) == ("https://nras.example/.well-known/jwks.json", None)
    options = (nras, ocsp, "broker.gpu.nras.issuer=https://issuer.example", "broker.gpu.ocsp.nonce=false", "broker.gpu.caConfigMap=ca")
    both = settings(*options, "broker.gpu.jwksConfigMap=keys").gpu
    assert both.nras is not None
    assert both.ocsp is not None
    assert (both.nras.issuer, both.ocsp.url, both.ocsp.nonce) == ("https://issuer.example", "http://ocsp.example", False)
    found = of_kind(rendered(helm, *options, "broker.gpu.jwksConfigMap=keys"), "Deployment")["chrysalis-broker"]
    pod = found["spec"]["template"]["spec"]
    mounted = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume.get("configMap", {}).get("name") for volume in pod["volumes"]}
    assert (both.nras.jwks_file, both.nras.ca_file) == (Path(mounted["gpu-keys"]) / "jwks.json", Path(mounted["gpu-ca"]) / "ca.crt")
    assert both.ocsp.ca_file == both.nras.ca_file
    assert (volumes["gpu-keys"], volumes["gpu-ca"]) == ("keys", "ca")
    assert run(helm, f"image={IMAGE}", "broker.gpu.nras.url=http://nras.example").returncode != 0  # TLS alone says who answers


def test_the_anchor_is_a_config_map_that_only_the_broker_writes(helm: str) -> None:
    found = rendered(helm)
    broker = BrokerSettings.model_validate(yaml.safe_load(of_kind(found, "ConfigMap")["chrysalis-broker"]["data"]["broker.yaml"]))
    assert broker.anchor is not None
    assert broker.anchor.config_map is not None
    name = broker.anchor.config_map.name
    assert (broker.anchor.config_map.namespace, broker.anchor.max_staleness_seconds) == ("chrysalis-system", 10)
    assert not {"data", "binaryData"} & set(of_kind(found, "ConfigMap")[name]), "an upgrade would set it back"
    only = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [name], "verbs": ["get", "update"]}
    assert of_kind(found, "Role")[name]["rules"] == [only]
    assert of_kind(found, "RoleBinding")[name]["subjects"] == [
        {"kind": "ServiceAccount", "name": "chrysalis-broker", "namespace": "chrysalis-system"}
    ]
    assert "annotations" not in of_kind(found, "ConfigMap")[name]["metadata"], "its database goes with its volume"
    shared = of_kind(rendered(helm, DATABASE, "broker.rootKeySecret=root"), "ConfigMap")[name]
    assert shared["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    off = rendered(helm, "broker.anchor.enabled=false")
    settings = yaml.safe_load(of_kind(off, "ConfigMap")["chrysalis-broker"]["data"]["broker.yaml"])
    assert "anchor" not in settings
    assert name not in of_kind(off, "ConfigMap")
    assert name not in of_kind(off, "Role")


def test_replicas_of_the_broker_share_a_database(helm: str) -> None:
    shared = (DATABASE, "broker.replicas=2", "broker.rootKeySecret=root", "broker.database.passwordSecret=password")
    found = rendered(helm, *shared)
    broker = BrokerSettings.model_validate(yaml.safe_load(of_kind(found, "ConfigMap")["chrysalis-broker"]["data"]["broker.yaml"]))
    assert broker.state_keys == "Database"
    assert broker.database is not None
    assert str(broker.database.password_file) == "/etc/chrysalis-database/password"
    assert str(broker.root_key_file) == "/etc/chrysalis-root-key/root.key"
    deployment = of_kind(found, "Deployment")["chrysalis-broker"]["spec"]
    assert deployment["replicas"] == 2
    assert "strategy" not in deployment, "replicas over one database roll"
    volumes = {volume["name"]: volume for volume in deployment["template"]["spec"]["volumes"]}
    assert volumes["root-key"]["secret"]["secretName"] == "root"
    assert volumes["database"]["secret"]["secretName"] == "password"
    assert "emptyDir" in volumes["state"]
    assert "chrysalis-broker" not in of_kind(found, "PersistentVolumeClaim")
    alone = of_kind(rendered(helm), "Deployment")["chrysalis-broker"]["spec"]  # the twin
    assert (alone["replicas"], alone["strategy"]) == (1, {"type": "Recreate"})


def test_more_settings_of_the_broker_and_their_files(helm: str) -> None:
    mounted = {"name": "anchor", "mountPath": "/var/lib/chrysalis-anchor"}
    volume = {"name": "anchor", "persistentVolumeClaim": {"claimName": "anchor"}}
    more = {
        "anchor": {"file": "/var/lib/chrysalis-anchor/state.json"},
        "earKeys": {"algorithm": "ES256"},
        "referencePublishers": ["ab" * 32],
    }
    values = [f"broker.extraSettings={json.dumps(more)}", f"broker.extraVolumes={json.dumps([volume])}"]
    values.append(f"broker.extraVolumeMounts={json.dumps([mounted])}")
    done = run(helm, f"image={IMAGE}", json_values=values)
    assert done.returncode == 0, done.stderr
    found = [document for document in yaml.safe_load_all(done.stdout) if document]
    broker = BrokerSettings.model_validate(yaml.safe_load(of_kind(found, "ConfigMap")["chrysalis-broker"]["data"]["broker.yaml"]))
    assert broker.anchor is not None
    assert str(broker.anchor.file) == "/var/lib/chrysalis-anchor/state.json"
    assert broker.anchor.config_map is None
    assert "chrysalis-broker-anchor" not in of_kind(found, "ConfigMap")
    assert broker.ear_keys.algorithm == "ES256"
    assert broker.reference_publishers == ["ab" * 32]
    pod = of_kind(found, "Deployment")["chrysalis-broker"]["spec"]["template"]["spec"]
    assert mounted in pod["containers"][0]["volumeMounts"]
    assert volume in pod["volumes"]
    assert run(helm, f"image={IMAGE}", json_values=['broker.extraSettings={"placement": "External"}']).returncode != 0


def test_pods_are_restricted(helm: str) -> None:
    deployments = of_kind(rendered(helm, *SETTLER), "Deployment")
    assert {name: len(d["spec"]["template"]["spec"]["containers"]) for name, d in deployments.items()} == {
        "chrysalis-broker": 1,
        "chrysalis-operator": 2,
    }
    for deployment in deployments.values():
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert "@sha256:" in container["image"]
            security = container["securityContext"]
            assert (security["readOnlyRootFilesystem"], security["allowPrivilegeEscalation"]) == (True, False)
            assert security["capabilities"] == {"drop": ["ALL"]}
    only = of_kind(rendered(helm), "Deployment")["chrysalis-operator"]
    assert [c["name"] for c in only["spec"]["template"]["spec"]["containers"]] == ["operator"]


def test_the_broker_may_run_another_image(helm: str) -> None:
    other = "registry.example/broker@sha256:" + "99" * 32
    deployments = of_kind(rendered(helm, f"broker.image={other}"), "Deployment")
    images = {name: d["spec"]["template"]["spec"]["containers"][0]["image"] for name, d in deployments.items()}
    assert images == {"chrysalis-broker": other, "chrysalis-operator": IMAGE}


def test_rights_are_small(helm: str) -> None:
    objects = rendered(helm, *SETTLER)
    for role in [*of_kind(objects, "ClusterRole").values(), *of_kind(objects, "Role").values()]:
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            assert "secrets" not in rule["resources"]
            assert "delete" not in rule["verbs"]
    broker = of_kind(objects, "ClusterRole")["chrysalis-system-chrysalis-broker"]
    assert broker["rules"] == [{"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}]


def test_admission_policies_are_bound_and_scoped(helm: str) -> None:
    objects = rendered(helm, "admission.runtimeClasses={chrysalis-simtd}", "admission.exemptNamespaces={kept}")
    policies = of_kind(objects, "ValidatingAdmissionPolicy")
    bindings = of_kind(objects, "ValidatingAdmissionPolicyBinding")
    assert set(policies) == set(bindings)
    for name, policy in policies.items():
        assert policy["spec"]["failurePolicy"] == "Fail"
        assert bindings[name]["spec"]["validationActions"] == ["Deny"]
        assert all(v["message"].startswith("chrysalis: ") for v in policy["spec"]["validations"])
        if name != "chrysalis-pool-label":
            assert policy["spec"]["matchConstraints"]["namespaceSelector"] == {"matchLabels": {names.LABEL_POOL: "true"}}
            assert policy["spec"]["matchConditions"][0]["expression"] == '!(request.namespace in ["kept"])'
    everything = json.dumps(policies)
    for word in (
        names.GATE_ATTESTATION,
        names.READINESS_ATTESTED,
        names.ANNOTATION_ADMITTED,
        names.ANNOTATION_INITDATA,
        names.LABEL_WORKER,
    ):
        assert word in everything
    assert f"system:serviceaccount:chrysalis-system:{names.SERVICE_ACCOUNT_OPERATOR}" in everything
    assert not of_kind(rendered(helm, "admission.enabled=false"), "ValidatingAdmissionPolicy")
