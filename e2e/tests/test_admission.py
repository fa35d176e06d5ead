"""The chart's ValidatingAdmissionPolicies on a real API server: what they deny, and that nothing else is denied."""

from __future__ import annotations

import copy
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chrysalis.api import names
from chrysalis.api.worker import ConfidentialWorkerSpec
from chrysalis.rendering import render
from e2e.cluster import Cluster, ClusterError
from e2e.demo import objects

pytestmark = pytest.mark.cluster
CHART = Path(__file__).resolve().parents[2] / "helm" / "chrysalis"
SYSTEM = "chrysalis-system"
OPERATOR = f"system:serviceaccount:{SYSTEM}:{names.SERVICE_ACCOUNT_OPERATOR}"
IMAGE = "chrysalis.local/worker@sha256:" + "ab" * 32
POLICY = "validatingadmissionpolicy/chrysalis-pool-pods-create"
KINDS = ("validatingadmissionpolicy", "validatingadmissionpolicybinding")
NAMES = ("pods-create", "pods-update", "binding", "connect", "label")


@pytest.fixture(scope="module")
def policies(cluster: Cluster) -> Iterator[None]:
    """The chart's policies; a chart that is installed already is used as it is."""
    ours = not cluster.kubectl("get", POLICY, "--ignore-not-found", "-o", "name")
    if ours:
        values = ["--set", f"image={IMAGE}", "--set", "admission.runtimeClasses={" + names.RUNTIME_CLASS_SIMULATED + "}"]
        shown = cluster.helm("template", "chrysalis", str(CHART), "--namespace", SYSTEM, "--show-only", "templates/admission.yaml", *values)
        cluster.kubectl("apply", "-f", "-", input=shown)
        probe = f"probe-{secrets.token_hex(3)}"
        make_pool(cluster, probe)
        cluster.wait("the policies to be in force", lambda: refused(cluster, probe, pod(nodeName="n1")), 20)
        cluster.kubectl("delete", "namespace", probe, "--wait=false")
    yield
    if ours:
        each = [
            f"{kind}/chrysalis-pool-{name}" for name in NAMES for kind in ("validatingadmissionpolicy", "validatingadmissionpolicybinding")
        ]
        cluster.kubectl("delete", *each)


@pytest.fixture(scope="module")
def pool(cluster: Cluster, policies: None) -> Iterator[str]:
    """A namespace of a pool, in which the operator's name may do what its own role allows and more."""
    name = f"pool-{secrets.token_hex(3)}"
    make_pool(cluster, name)
    cluster.kubectl("create", "rolebinding", "operator", "--clusterrole=cluster-admin", f"--user={OPERATOR}", "--namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def make_pool(cluster: Cluster, name: str) -> None:
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("label", "namespace", name, f"{names.LABEL_POOL}=true")
    cluster.wait(f"the service account of {name}", lambda: bool(_default(cluster, name)), 20)


def _default(cluster: Cluster, namespace: str) -> str:
    return cluster.kubectl("get", "serviceaccount", "default", "--ignore-not-found", "-o", "name", "--namespace", namespace)


def pod(name: str = "worker", **spec: Any) -> dict[str, Any]:
    """A pod as the operator renders it, as far as the policies look; members of its spec changed, or taken away with None."""
    container: dict[str, Any] = {"name": "triton", "image": IMAGE, "command": ["true"]}
    body: dict[str, Any] = {
        "runtimeClassName": names.RUNTIME_CLASS_SIMULATED,
        "schedulingGates": [{"name": names.GATE_ATTESTATION}],
        "readinessGates": [{"conditionType": names.READINESS_ATTESTED}],
        "initContainers": [{**container, "name": "gateway"}],
        "containers": [container],
    }
    body = {key: value for key, value in {**body, **spec}.items() if value is not None}
    metadata = {"name": name, "labels": {names.LABEL_WORKER: "embedder"}, "annotations": {names.ANNOTATION_INITDATA: "x"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": body}


def create(cluster: Cluster, namespace: str, body: dict[str, Any], *flags: str) -> None:
    cluster.kubectl("create", "--namespace", namespace, "-f", "-", *flags, input=json.dumps(body))


def refused(cluster: Cluster, namespace: str, body: dict[str, Any]) -> bool:
    try:
        create(cluster, namespace, body, "--dry-run=server")
    except ClusterError:
        return True
    return False


def denial(cluster: Cluster, *arguments: str, text: str | None = None) -> str:
    """What the API server says to a command that it must not carry out."""
    with pytest.raises(ClusterError) as caught:
        cluster.kubectl(*arguments, input=text)
    return f"{caught.value.message} {caught.value.detail}"


CONTAINER = {"name": "triton", "image": IMAGE}
BORN: list[tuple[str, dict[str, Any], str]] = [
    ("nodeName", {"nodeName": "n1", "schedulingGates": None}, "may not name its node"),
    ("ungated", {"schedulingGates": None}, "born with the scheduling gate"),
    ("no readiness gate", {"readinessGates": None}, "readiness gate"),
    ("no runtime class", {"runtimeClassName": None}, "runtimeClassName must be one of"),
    ("a tag", {"containers": [{**CONTAINER, "image": "chrysalis.local/worker:1"}]}, "name images by digest"),
    ("a tag, in the sidecar", {"initContainers": [{**CONTAINER, "name": "i", "image": "a:1"}]}, "name images by digest"),
    ("tolerates all", {"tolerations": [{"operator": "Exists"}]}, "name the taints"),
    ("hostPath", {"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}, "hostPath"),
    ("hostNetwork", {"hostNetwork": True}, "share the host's"),
    ("privileged", {"containers": [{**CONTAINER, "securityContext": {"privileged": True}}]}, "privileged"),
]


@pytest.mark.parametrize(("spec", "words"), [row[1:] for row in BORN], ids=[row[0] for row in BORN])
def test_pods_that_do_not_come_into_being(cluster: Cluster, pool: str, spec: dict[str, Any], words: str) -> None:
    said = denial(cluster, "create", "--namespace", pool, "-f", "-", "--dry-run=server", text=json.dumps(pod(**spec)))
    assert words in said
    assert "chrysalis: " in said
    create(cluster, pool, pod(), "--dry-run=server")


def test_only_worker_pods_live_in_a_pool(cluster: Cluster, pool: str, namespace: str) -> None:
    stranger = pod()
    stranger["metadata"]["labels"] = {}
    assert "holds only worker pods" in denial(cluster, "create", "--namespace", pool, "-f", "-", text=json.dumps(stranger))
    create(cluster, namespace, pod(nodeName="n1", schedulingGates=None, runtimeClassName=None), "--dry-run=server")  # no pool


UNGATE = [{"op": "remove", "path": "/spec/schedulingGates/0"}]
ADMIT = [{"op": "add", "path": f"/metadata/annotations/{names.ANNOTATION_ADMITTED.replace('/', '~1')}", "value": "x"}]
INITDATA = [{"op": "replace", "path": f"/metadata/annotations/{names.ANNOTATION_INITDATA.replace('/', '~1')}", "value": "y"}]
RELABEL = [{"op": "remove", "path": f"/metadata/labels/{names.LABEL_WORKER.replace('/', '~1')}"}]
IMAGES = [{"op": "replace", "path": "/spec/containers/0/image", "value": IMAGE.replace("ab", "cd")}]
FORGE = [{"op": "add", "path": "/status/conditions", "value": [{"type": names.READINESS_ATTESTED, "status": "True"}]}]
TOLERATE = [{"op": "add", "path": "/spec/tolerations/-", "value": {"operator": "Exists"}}]
CHANGES: list[tuple[str, list[dict[str, Any]], str, str, bool]] = [
    ("gate", UNGATE, "", "only the operator opens", True),
    ("admitted", ADMIT, "", "written by the operator alone", True),
    ("admitted through status", ADMIT, "status", "written by the operator alone", True),
    ("attested", FORGE, "status", "set by the operator alone", True),
    ("initdata", INITDATA, "", "initdata is measured", False),
    ("label", RELABEL, "", "keeps its label", False),
    ("image", IMAGES, "", "images are measured", False),
    ("tolerations", TOLERATE, "", "tolerates every taint", False),
]


@pytest.mark.parametrize(("patch", "subresource", "words", "operators"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES])
def test_changes_to_a_pod(cluster: Cluster, pool: str, patch: list[dict[str, Any]], subresource: str, words: str, operators: bool) -> None:
    """operators: whether the operator's own service account may; a change to another label is everybody's."""
    name = f"w-{secrets.token_hex(3)}"
    create(cluster, pool, pod(name))
    command = ["patch", "pod", name, "--namespace", pool, "--type=json", "--dry-run=server"]
    through = ["--subresource", subresource] if subresource else []
    change = ["--patch", json.dumps(patch)]
    assert words in denial(cluster, *command, *through, *change)
    if operators:
        cluster.kubectl(*command, *through, *change, f"--as={OPERATOR}")
    else:
        assert words in denial(cluster, *command, *change, f"--as={OPERATOR}")
    cluster.kubectl(*command, "--patch", json.dumps([{"op": "add", "path": "/metadata/labels/colour", "value": "red"}]))


def test_only_the_scheduler_binds(cluster: Cluster, pool: str) -> None:
    name = f"w-{secrets.token_hex(3)}"
    create(cluster, pool, pod(name))
    binding = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name},
        "target": {"apiVersion": "v1", "kind": "Node", "name": cluster.node_names[0]},
    }
    path = f"/api/v1/namespaces/{pool}/pods/{name}/binding"
    assert "only the scheduler binds" in denial(cluster, "create", "--raw", path, "-f", "-", text=json.dumps(binding))


def test_nobody_enters(cluster: Cluster, pool: str) -> None:
    name = f"w-{secrets.token_hex(3)}"
    create(cluster, pool, pod(name))
    assert "nobody enters" in denial(cluster, "exec", "--namespace", pool, name, "--container=triton", "--", "true")
    assert "nobody enters" in denial(cluster, "get", "--raw", f"/api/v1/namespaces/{pool}/pods/{name}/proxy/")
    patch = {"spec": {"ephemeralContainers": [{"name": "spy", "image": IMAGE, "targetContainerName": "triton"}]}}
    arguments = ["patch", "pod", name, "--namespace", pool, "--subresource=ephemeralcontainers", "--patch", json.dumps(patch)]
    assert "nobody enters" in denial(cluster, *arguments)


def test_a_namespace_stays_in_the_pool(cluster: Cluster, pool: str) -> None:
    assert "keeps the admission policies in force" in denial(cluster, "label", "namespace", pool, f"{names.LABEL_POOL}-")
    assert "keeps the admission policies in force" in denial(cluster, "label", "namespace", pool, f"{names.LABEL_POOL}=no", "--overwrite")
    cluster.kubectl("label", "namespace", pool, "colour=red")
    said = json.loads(cluster.kubectl("get", "namespace", pool, "-o", "json"))
    del said["metadata"]["labels"][names.LABEL_POOL]
    for subresource in ("status", "finalize"):
        path = f"/api/v1/namespaces/{pool}/{subresource}"
        assert "keeps the admission policies in force" in denial(cluster, "replace", "--raw", path, "-f", "-", text=json.dumps(said))


def test_the_rendered_pod_passes(cluster: Cluster, pool: str) -> None:
    """What the operator renders is what the policies let through."""
    body = objects.worker(image=IMAGE)
    rendered = render("embedder", pool, ConfidentialWorkerSpec.model_validate(body["spec"]), None)
    template = copy.deepcopy(rendered.pod_template)
    template["metadata"]["name"] = "embedder-rendered"
    template["spec"]["serviceAccountName"] = "default"
    create(cluster, pool, {"apiVersion": "v1", "kind": "Pod", **template}, "--dry-run=server")
