"""The OCI runtime `chrysalis-simtd`: plays a Kata guest in front of runc.

containerd starts it for each OCI command of a pod whose RuntimeClass is chrysalis-simtd.  It sees each container's bundle
before anything runs, and does what a Kata guest does with measured initdata:

1. a sandbox without initdata does not start; with it, the Simulated platform opens the evidence service in the pod's network
   namespace, for quotes whose MRCONFIGID is the SHA-384 of that initdata;
2. a container that the initdata's allow-list does not name with this image and these arguments is refused;
3. so is one whose mounts cover program files or bring files that the host could have prepared where the worker keeps secrets,
   or whose environment or working directory would load other code than the measured arguments name;
4. exec is refused;
5. where the platform has Simulated GPUs, the guest itself shows the SimulatedNvml to each container that it allows, at the
   place where NVIDIA's CDI hook mounts its driver library in a real guest.

A refusal goes to the file that `--log` names, in runc's JSON form, which the kubelet shows to people in full.

Standard library only, and little of it: it runs some ten times for each pod.  SIMTD_STATE names the folder that it shares
with the platform's process.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import re
import socket
import sys
import tomllib
from typing import Any, NoReturn

ANNOTATION_INITDATA = "io.katacontainers.config.hypervisor.cc_init_data"
TYPE = "io.kubernetes.cri.container-type"
SANDBOX_ID = "io.kubernetes.cri.sandbox-id"
CONTAINER_NAME = "io.kubernetes.cri.container-name"
IMAGE_NAME = "io.kubernetes.cri.image-name"
POD_UID = "io.kubernetes.cri.sandbox-uid"
MAX_TOML_BYTES = 256 * 1024
SOCKET = "platform.sock"
NVML = "libnvidia-ml.so.1"
"""In the shared folder: the SimulatedNvml, where there are Simulated GPUs; inside, the name of NVIDIA's driver library."""
WAIT_SECONDS = 10.0
KERNEL_PLACES = ("/dev", "/proc", "/sys")
"""Where file systems of the kernel's own may be mounted (proc, sysfs, devpts, …)."""
NETWORK_FILES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/termination-log")
"""What the host mounts into every container; data that nothing is kept in."""
PODINFO = "/run/podinfo"
"""The downward API: untrusted names, and the initdata, whose hash is measured."""
SHARED_MEMORY = "/dev/shm"
MEMORY_PLACES = ("/run", "/tmp", SHARED_MEMORY)
"""Where the worker keeps keys, models and sockets: only the guest's own memory, empty when the pod began, may be mounted."""
EMPTY_DIR = re.compile(r"/pods/([^/]+)/volumes/kubernetes\.io~empty-dir/[^/]+")
DOWNWARD_API = re.compile(r"/pods/([^/]+)/volumes/kubernetes\.io~downward-api/[^/]+")
SANDBOX_SHM = re.compile(r"/sandboxes/([^/]+)/shm")
MOUNT_TABLE = "/proc/self/mountinfo"
LOADER_VARIABLES = ("LD_", "PYTHON", "GCONV_PATH", "BASH_ENV", "ENV=", "OPENSSL_CONF", "OPENSSL_MODULES", "SIMULATED_")
"""Beginnings of environment entries that change which code a program loads; the environment is not measured."""
HARMLESS_VARIABLES = ("PYTHONDONTWRITEBYTECODE=", "PYTHONUNBUFFERED=", "PYTHON_VERSION=", "PYTHONHASHSEED=")
VALUED_FLAGS = frozenset({"--root", "--log", "--log-format", "--criu", "--rootless"})
"""runc's global flags that take a value; between them and their values stands the command."""


class Denied(Exception):
    """What the guest refuses; the text is for people."""


def main(argv: list[str]) -> NoReturn:
    """Judge one OCI command, then become runc; never returns."""
    command, rest = _command(argv)
    state = os.environ.get("SIMTD_STATE", "")
    try:
        if not state:
            raise Denied("SIMTD_STATE is not set; the runtime does not know its platform")
        if command == "exec":
            raise Denied("exec is not allowed by the guest's policy")
        if command in ("create", "run"):
            _judge(state, _option(rest, "--bundle", "-b") or ".", rest[-1])
        elif command == "delete" and os.path.exists(_record(state, rest[-1])):
            ask(state, {"op": "stop", "sandbox": rest[-1]})
            os.unlink(_record(state, rest[-1]))
    except Denied as denied:
        _refuse(argv, str(denied))
    except Exception as error:  # whatever went wrong, the container does not start
        _refuse(argv, f"the guest failed: {type(error).__name__}: {error}")
    os.execvp("runc", ["runc", *argv])


def _command(argv: list[str]) -> tuple[str, list[str]]:
    """The OCI command and what follows it."""
    skip = False
    for index, word in enumerate(argv):
        if skip:
            skip = False
        elif word in VALUED_FLAGS:
            skip = True
        elif not word.startswith("-"):
            return word, argv[index + 1 :]
    return "", []


def _option(words: list[str], *names: str) -> str:
    for index, word in enumerate(words):
        if word in names and index + 1 < len(words):
            return words[index + 1]
        for name in names:
            if word.startswith(name + "="):
                return word.split("=", 1)[1]
    return ""


def _judge(state: str, bundle: str, container_id: str) -> None:
    with open(os.path.join(bundle, "config.json"), encoding="utf-8") as stream:
        config: dict[str, Any] = json.load(stream)
    annotations: dict[str, str] = config.get("annotations") or {}
    kind = annotations.get(TYPE)
    if kind == "sandbox":
        _start_domain(state, container_id, config, annotations)
    elif kind == "container":
        _check_container(state, config, annotations)
        _show_gpus(state, bundle, config)
    else:
        raise Denied(f"a bundle of type {kind!r} is neither a sandbox nor a container")


def _start_domain(state: str, sandbox: str, config: dict[str, Any], annotations: dict[str, str]) -> None:
    value = annotations.get(ANNOTATION_INITDATA)
    if not value:
        raise Denied(f"the pod has no initdata: annotation {ANNOTATION_INITDATA} is missing")
    toml = unpack(value)
    allowed(toml)
    namespaces: list[dict[str, str]] = config["linux"]["namespaces"]
    netns = next((n.get("path", "") for n in namespaces if n["type"] == "network"), "")
    if not netns:
        raise Denied("the pod has no network namespace of its own; host networking is not for trust domains")
    ask(state, {"op": "start", "sandbox": sandbox, "netns": netns, "mrconfigid": hashlib.sha384(toml).hexdigest()})
    record = _record(state, sandbox)
    with open(record + ".new", "wb") as stream:
        stream.write(toml)
    os.rename(record + ".new", record)


def _check_container(state: str, config: dict[str, Any], annotations: dict[str, str]) -> None:
    sandbox = annotations.get(SANDBOX_ID, "")
    if not sandbox.isalnum():
        raise Denied("the container names no sandbox")
    try:
        with open(_record(state, sandbox), "rb") as stream:
            toml = stream.read()  # what the domain was started with: a later change of the annotation changes nothing
    except FileNotFoundError:
        raise Denied("the container's sandbox is not a trust domain") from None
    name, image = annotations.get(CONTAINER_NAME, ""), annotations.get(IMAGE_NAME, "")
    arguments: list[str] = config["process"]["args"]
    for entry in allowed(toml):
        if entry["name"] == name and entry["image"] == image and entry["args"] == arguments:
            _check_surroundings(config, sandbox, annotations.get(POD_UID, ""))
            return
    raise Denied(f"the initdata's policy does not allow container {name!r} with image {image} and arguments {json.dumps(arguments)}")


def _show_gpus(state: str, bundle: str, config: dict[str, Any]) -> None:
    """Add the SimulatedNvml to what the container sees; the host's own mounts were judged before."""
    library = os.path.join(state, NVML)
    if not os.path.exists(library):
        return
    place = f"/usr/lib/{os.uname().machine}-linux-gnu/{NVML}"
    options = ["bind", "ro", "nosuid", "nodev"]
    config["mounts"] = [*(config.get("mounts") or []), {"destination": place, "type": "bind", "source": library, "options": options}]
    path = os.path.join(bundle, "config.json")
    with open(path + ".new", "w", encoding="utf-8") as stream:
        json.dump(config, stream)
    os.rename(path + ".new", path)


def _check_surroundings(config: dict[str, Any], sandbox: str, pod_uid: str) -> None:
    """What the host adds to a measured container; raises Denied where that could replace its code or know its secrets."""
    directory = config["process"].get("cwd") or "/"
    if os.path.normpath(directory) != "/":
        raise Denied(f"the working directory {directory} could replace program code; only / is measured")
    for mount in config.get("mounts") or []:
        _check_mount(mount, sandbox, pod_uid)
    for entry in config["process"].get("env") or []:
        if entry.startswith(LOADER_VARIABLES) and not entry.startswith(HARMLESS_VARIABLES):
            raise Denied(f"the environment variable {entry.split('=')[0]} could replace program code, and the environment is not measured")


def _check_mount(mount: dict[str, Any], sandbox: str, pod_uid: str) -> None:
    destination, source = os.path.normpath(mount["destination"]), os.path.normpath(mount.get("source") or "/")
    if destination == "/var/run" or destination.startswith("/var/run/"):
        destination = destination.removeprefix("/var")  # a link in every image
    if not _binds(mount):
        if not _within(destination, (*KERNEL_PLACES, *MEMORY_PLACES)):
            raise Denied(f"a mount at {destination} could replace program files")
        return
    if destination in NETWORK_FILES:
        return
    if destination == PODINFO and _is_of_pod(DOWNWARD_API, source, pod_uid):
        return
    if destination == SHARED_MEMORY and _is_of_pod(SANDBOX_SHM, source, sandbox):
        return
    if not _within(destination, MEMORY_PLACES):
        raise Denied(f"a mount at {destination} could replace program files; only memory below {', '.join(MEMORY_PLACES)} may be mounted")
    if not _is_of_pod(EMPTY_DIR, source, pod_uid) or _file_system(source) != "tmpfs":
        raise Denied(f"the mount at {destination} is not an empty directory in memory: the host could know or prepare what is in it")


def _binds(mount: dict[str, Any]) -> bool:
    return mount.get("type") in (None, "", "none", "bind") or bool({"bind", "rbind"} & set(mount.get("options") or []))


def _within(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or path.startswith(place + "/") for place in places)


def _is_of_pod(form: re.Pattern[str], source: str, owner: str) -> bool:
    """Whether a source has this form at its end, and is this pod's or sandbox's."""
    found = re.search(form.pattern + r"\Z", source)
    return found is not None and owner == found[1]


def _file_system(path: str) -> str:
    """The type of the file system that a path of the host lies on."""
    best, kind = "", ""
    with open(MOUNT_TABLE, encoding="utf-8", errors="replace") as table:
        for line in table:
            fields, _, rest = line.partition(" - ")
            point = fields.split()[4].rstrip("/")
            if (path == point or path.startswith(point + "/")) and len(point) >= len(best):
                best, kind = point, rest.split()[0]
    return kind


def unpack(annotation: str) -> bytes:
    """The TOML of an initdata annotation; raises Denied."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(base64.b64decode(annotation, validate=True))) as stream:
            toml = stream.read(MAX_TOML_BYTES + 1)
    except (ValueError, OSError, EOFError) as error:
        raise Denied(f"the pod's initdata cannot be read: {error}") from None
    if len(toml) > MAX_TOML_BYTES:
        raise Denied(f"the pod's initdata is larger than {MAX_TOML_BYTES} bytes")
    return toml


def allowed(toml: bytes) -> list[dict[str, Any]]:
    """The allow-list of initdata: [{name, image, args}]; raises Denied when there is none."""
    try:
        document = tomllib.loads(toml.decode())
        if document["algorithm"] != "sha384":
            raise ValueError("algorithm must be sha384")
        entries: list[dict[str, Any]] = json.loads(document["data"]["allow.json"])
        for entry in entries:
            if not (isinstance(entry["name"], str) and isinstance(entry["image"], str) and isinstance(entry["args"], list)):
                raise TypeError("an entry needs name, image and args")
    except (ValueError, KeyError, TypeError) as error:
        raise Denied(f"the initdata carries no allow-list: {error}") from None
    return entries


def ask(state: str, request: dict[str, str]) -> dict[str, Any]:
    """One request to the Simulated platform; raises Denied with its error."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(WAIT_SECONDS)
        try:
            connection.connect(os.path.join(state, SOCKET))
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as stream:
                answer: dict[str, Any] = json.loads(stream.readline())
        except (OSError, ValueError) as error:
            raise Denied(f"the Simulated platform does not answer: {error}") from None
    if "error" in answer:
        raise Denied(f"the Simulated platform: {answer['error']}")
    return answer


def _record(state: str, sandbox: str) -> str:
    """Where the initdata that a running domain was started with is kept."""
    return os.path.join(state, f"domain-{os.path.basename(sandbox)}.toml")


def _refuse(argv: list[str], text: str) -> NoReturn:
    message = "simtd: " + text
    log = _option(argv, "--log")
    if log:
        with open(log, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"level": "error", "msg": message}) + "\n")
    print(message, file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
