"""Steps 1, 2, 5 and 12: the ground under everything: programs, cluster, images, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import subprocess

from e2e.demo.story import Console, StepFailed, expect
from e2e.demo.world import ROOT, World

PROGRAMS = {
    "go": "Go 1.26 or newer",
    "node": "Node.js 20 or newer",
    "npm": "npm, which comes with Node.js",
    "containerd": "the Debian package containerd",
    "runc": "the Debian package runc",
    "mmdebstrap": "the Debian package mmdebstrap",
    "ip": "the Debian package iproute2",
    "nft": "the Debian package nftables",
    "nsenter": "the Debian package util-linux",
}


def prerequisites(world: World, console: Console) -> str:
    """Install what is missing (as root), else say exactly what to install."""
    expect(os.geteuid() == 0, "run this as root: the cluster makes network namespaces and mounts; `make unit` needs no root")
    console.doing("looking for the programs that are needed")
    done = subprocess.run(["bash", str(ROOT / ".ci" / "setup")], capture_output=True, text=True)
    if done.returncode:
        raise StepFailed(done.stderr.strip())
    missing = [f"{name} ({what})" for name, what in PROGRAMS.items() if shutil.which(name) is None]
    expect(not missing, f"install {', '.join(missing)} and run this again")
    versions = [
        subprocess.run(words, capture_output=True, text=True).stdout.split("\n")[0].strip()
        for words in (["go", "version"], ["node", "--version"], ["containerd", "--version"])
    ]
    console.say("; ".join(versions))
    return f"{len(PROGRAMS)} programs and the locked Python environment are there"


def cluster(world: World, console: Console) -> str:
    """Kubernetes from Go modules, two nodes in network namespaces."""
    from e2e.cluster import Cluster

    made = Cluster(world.instance, progress=console.doing)
    if made.abandoned:
        console.doing("clearing away what a run that was killed has left")
        made.down()
    world.cluster = made
    made.up()
    if not world.keep:
        made.own()
    nodes = world.get("nodes")["items"]
    ready = [n for n in nodes if any(c["type"] == "Ready" and c["status"] == "True" for c in n["status"]["conditions"])]
    expect(len(ready) == 2, f"{len(ready)} of {len(nodes)} nodes are ready")
    world.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    world.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=100s")
    for node in ready:
        info = node["status"]["nodeInfo"]
        console.say(f"{node['metadata']['name']}: kubelet {info['kubeletVersion']}, {info['containerRuntimeVersion']}")
    tag = world.refused("apply", "-f", "-", given=_worker_with_a_tag())
    console.say(f"a worker with an image tag instead of a digest is refused: {_last_sentence(tag)}")
    version = ready[0]["status"]["nodeInfo"]["kubeletVersion"]
    return f"Kubernetes {version.removeprefix('v')} runs on two nodes, knows the three resources and refuses a bad one"


def _worker_with_a_tag() -> str:
    """A worker whose only mistake is an image by tag."""
    import json

    from e2e.demo.objects import worker

    body = worker(name="tagged", namespace="default", image="chrysalis.local/worker@sha256:" + "0" * 64)
    body["spec"]["image"] = "chrysalis.local/worker:latest"
    return json.dumps(body)


def _last_sentence(text: str) -> str:
    lines = [line.strip(" *") for line in text.splitlines() if line.strip()]
    return lines[-1][-220:] if lines else text


def images(world: World, console: Console) -> str:
    """Build and import the images; everything refers to them by digest."""
    from e2e import images as builder

    for name in ("chrysalis", "chrysalis-worker"):
        console.doing(f"image {name}")
        built = builder.build(name, console.doing)
        world.images[name] = world.running.import_image(built.archive, built.repository)
        console.say(world.images[name])
    return f"{len(world.images)} images assembled from locked wheels, on both nodes by digest"


def down(world: World, console: Console) -> str:
    """End everything and look for what is left."""
    if world.keep and world.cluster is not None:
        console.say(f"KEEP=1: all stays up. export KUBECONFIG={world.running.kubeconfig}")
        console.say("try: kubectl get cw,apol,sacct -A; kubectl describe cw; kubectl get events; then `make cluster-down`")
        return "left up, as asked"
    if world.cluster is not None:
        console.doing("ending the cluster")
        world.cluster.down()
        world.cluster = None
    shutil.rmtree(world.state, ignore_errors=True)
    return "no process, namespace, mount, cgroup or bridge is left"
