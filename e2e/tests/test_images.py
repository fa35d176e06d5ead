"""What is in the images, that they run under the restricted pod security, and that the same inputs give the same digest."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e import images
from e2e.cluster import Cluster
from e2e.images.recipes import OPERATOR_ENVIRONMENT, TRITON_ENVIRONMENT

pytestmark = pytest.mark.cluster
TRITON = f"{TRITON_ENVIRONMENT}/lib/python3.11/site-packages/pytriton/tritonserver"
ECHO_CONFIG = """
backend: "python"
input [{ name: "IN" data_type: TYPE_FP32 dims: [-1] }]
output [{ name: "OUT" data_type: TYPE_FP32 dims: [-1] }]
"""
ECHO_MODEL = """
import numpy
import onnxruntime, tokenizers  # what real models import has to be there
import triton_python_backend_utils as triton


class TritonPythonModel:
    def execute(self, requests):
        return [
            triton.InferenceResponse([triton.Tensor("OUT", triton.get_input_tensor_by_name(request, "IN").as_numpy() * 2)])
            for request in requests
        ]
"""
INFER = """
import numpy, tritonclient.grpc as grpc
client = grpc.InferenceServerClient("unix:/run/triton/g.sock:1")
given = grpc.InferInput("IN", [3], "FP32")
given.set_data_from_numpy(numpy.array([1, 2, 3], numpy.float32))
print(client.infer("echo", [given]).as_numpy("OUT").tolist())
"""


def names(image: images.Image) -> Iterator[str]:
    """Every path in an image."""
    manifest = json.loads((image.archive / "blobs/sha256" / image.digest.removeprefix("sha256:")).read_bytes())
    for layer in manifest["layers"]:
        with tarfile.open(image.archive / "blobs/sha256" / layer["digest"].removeprefix("sha256:")) as archive:
            yield from archive.getnames()


def run_config(image: images.Image) -> dict[str, Any]:
    """The image's configuration."""
    blobs = image.archive / "blobs/sha256"
    manifest = json.loads((blobs / image.digest.removeprefix("sha256:")).read_bytes())
    config: dict[str, Any] = json.loads((blobs / manifest["config"]["digest"].removeprefix("sha256:")).read_bytes())
    return config


@pytest.mark.parametrize("name", sorted(images.RECIPES))
def test_an_image_is_built_once_and_runs_as_nobody(name: str) -> None:
    built = images.build(name)
    said: list[str] = []
    assert images.build(name, said.append) == built
    assert said == []
    assert run_config(built)["config"]["User"] == "65532:65532"


@pytest.mark.parametrize("name", ["chrysalis", "chrysalis-worker"])
def test_an_image_carries_nothing_that_it_does_not_need(name: str) -> None:
    paths = list(names(images.build(name)))
    packages = [path.partition("site-packages/")[2] for path in paths]
    assert not [path for path in packages if path.split("/")[0] in ("pip", "pytest", "hypothesis", "mypy", "ruff")]
    programs = {path.removeprefix("usr/bin/") for path in paths if path.startswith("usr/bin/")}
    assert programs == {"python3.11"} | ({"bash", "sh"} if name == "chrysalis-worker" else set())
    assert not [path for path in paths if path.startswith(("usr/sbin/", "usr/libexec/"))]
    assert not [path for path in paths if path in ("etc/resolv.conf", "etc/hostname")]
    assert not [path for path in paths if path.endswith((".safetensors", ".onnx"))]
    assert not [path for path in paths if path.endswith(".dist-info/RECORD")]  # they would differ from machine to machine
    # the interpreter must not want to write: each module of ours has its compiled file
    ours = [path for path in paths if "/site-packages/chrysalis" in path and path.endswith(".py")]
    assert ours
    for path in ours:
        folder, _, module = path.rpartition("/")
        assert f"{folder}/__pycache__/{module.removesuffix('.py')}.cpython-311.pyc" in paths


def test_the_worker_carries_only_what_it_may_import() -> None:
    paths = set(names(images.build("chrysalis-worker")))
    place = f"{OPERATOR_ENVIRONMENT.strip('/')}/lib/python3.11/site-packages"
    assert f"{place}/chrysalis/wire/__init__.py" in paths
    for package in ("broker", "controller", "settlement", "cli", "client"):
        assert not [path for path in paths if path.startswith(f"{place}/chrysalis/{package}/")]
    assert f"{TRITON_ENVIRONMENT.strip('/')}/lib/python3.11/site-packages/chrysalis_worker/__init__.py" in paths


def restricted(name: str, containers: list[dict[str, Any]], volumes: list[dict[str, Any]]) -> dict[str, Any]:
    """A pod that the restricted pod security standard admits."""
    for container in containers:
        container["imagePullPolicy"] = "Never"
        container["securityContext"] = {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    safe = {"runAsNonRoot": True, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"containers": containers, "volumes": volumes, "securityContext": safe, "automountServiceAccountToken": False}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {**spec, "terminationGracePeriodSeconds": 1}}


@pytest.mark.triton
def test_the_real_triton_runs_a_python_model_in_the_worker_image(cluster: Cluster, namespace: str, image: Callable[[str], str]) -> None:
    """Non-root, read-only, no capabilities, a unix socket between two containers of one image."""
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    files = {"config": ECHO_CONFIG, "model": ECHO_MODEL}
    model = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "echo"}, "data": files}
    socket = {"name": "run", "mountPath": "/run/triton"}
    server = {
        "name": "triton",
        "image": image("chrysalis-worker"),
        "command": [
            f"{TRITON}/bin/tritonserver",
            "--model-repository=/models",
            "--disable-auto-complete-config",
            f"--backend-directory={TRITON}/backends",
            "--allow-http=false",
            "--allow-metrics=false",
            "--grpc-address=unix:/run/triton/g.sock",
            "--grpc-port=1",
        ],
        "env": [{"name": "PATH", "value": f"{TRITON_ENVIRONMENT}/bin:/usr/bin:/bin"}],
        "volumeMounts": [
            socket,
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "model", "mountPath": "/models/echo", "readOnly": True},
        ],
    }
    sleep = "import signal; signal.pause()"
    client = {"name": "client", "image": image("chrysalis-worker"), "command": ["python3", "-c", sleep], "volumeMounts": [socket]}
    items = [{"key": "config", "path": "config.pbtxt"}, {"key": "model", "path": "1/model.py"}]
    volumes: list[dict[str, Any]] = [{"name": name, "emptyDir": {"medium": "Memory"}} for name in ("run", "tmp", "shm")]
    volumes.append({"name": "model", "configMap": {"name": "echo", "items": items}})
    for each in (model, restricted("worker", [server, client], volumes)):
        cluster.kubectl("create", "--namespace", namespace, "-f", "-", input=json.dumps(each))
    cluster.kubectl("wait", "--namespace", namespace, "--for=condition=Ready", "pod/worker", "--timeout=60s")
    answers: list[str] = []

    def answered() -> bool:
        try:
            answers.append(cluster.kubectl("exec", "--namespace", namespace, "worker", "-c", "client", "--", "python3", "-c", INFER))
        except Exception:
            return False
        return True

    cluster.wait("Triton to answer", answered, 30)
    assert answers == ["[2.0, 4.0, 6.0]\n"]


def test_the_operator_image_speaks(cluster: Cluster, namespace: str, image: Callable[[str], str]) -> None:
    program = "import alembic, fastapi, kopf, kubernetes.aio, pyrage, pytoniq, sqlalchemy, chrysalis.api.worker; print('imported')"
    pods = [
        restricted("help", [{"name": "main", "image": image("chrysalis"), "args": ["chrysalis", "--version"]}], []),
        restricted("imports", [{"name": "main", "image": image("chrysalis"), "command": ["python3", "-c", program]}], []),
    ]
    for pod in pods:
        pod["spec"]["restartPolicy"] = "Never"
        cluster.kubectl("create", "--namespace", namespace, "-f", "-", input=json.dumps(pod))
        name = pod["metadata"]["name"]
        cluster.kubectl("wait", "--namespace", namespace, f"pod/{name}", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
    assert cluster.kubectl("logs", "--namespace", namespace, "imports") == "imported\n"
    assert cluster.kubectl("logs", "--namespace", namespace, "help").startswith("chrysalis, version ")


def test_a_change_of_code_changes_the_last_layer_alone(tmp_path: Path) -> None:
    chrysalis, worker = (images.build(name) for name in ("chrysalis", "chrysalis-worker"))
    for built in (chrysalis, worker):
        manifest = json.loads((built.archive / "blobs/sha256" / built.digest.removeprefix("sha256:")).read_bytes())
        *below, last = manifest["layers"]
        assert last["size"] < 8_000_000
        assert sum(layer["size"] for layer in below) > 20 * last["size"]
