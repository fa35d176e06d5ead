"""The instance's network: a bridge, one network namespace for each node, and routes by which the host reaches pods and services.

Traffic between the nodes crosses the bridge; pods reach the host at the bridge's address; nothing leaves the machine.
"""

from __future__ import annotations

import json
from ipaddress import IPv4Network
from typing import Any

from e2e.cluster.commands import attempt, run
from e2e.cluster.layout import SLOTS, Layout
from e2e.cluster.reasons import ClusterError, Reason


def free_slot(taken: set[int]) -> int:
    """The lowest slot of the address plan that no recorded instance has and whose ranges this machine does not use.

    taken: slots that other instances have recorded.  Raises ClusterError when there is none.
    """
    used = [IPv4Network(route["dst"]) for route in _routes() if route["dst"] != "default"]
    for slot in range(SLOTS):
        if slot in taken:
            continue
        plan = _ranges(slot)
        if not any(wanted.overlaps(other) for wanted in plan for other in used):
            return slot
    raise ClusterError(
        Reason.NO_FREE_ADDRESSES,
        "every range that the cluster could take overlaps with a route of this machine",
        "see `ip route`: free a /24 in 10.77.0.0/16 with its /21s in 10.78.0.0/16 and 10.96.0.0/16",
    )


def _ranges(slot: int) -> tuple[IPv4Network, ...]:
    return (IPv4Network(f"10.77.{slot}.0/24"), IPv4Network(f"10.78.{slot * 8}.0/21"), IPv4Network(f"10.96.{slot * 8}.0/21"))


def _routes() -> list[dict[str, Any]]:
    routes: list[dict[str, Any]] = json.loads(run(["ip", "-json", "-4", "route", "show"]))
    return routes


def create(layout: Layout) -> None:
    """Make bridge, namespaces and routes.  Nothing of this instance may be there."""
    host = [
        f"link add {layout.bridge} type bridge",
        f"addr add {layout.host_address}/24 dev {layout.bridge}",
        f"link set {layout.bridge} up",
    ]
    for node in layout.nodes:
        host += [
            f"netns add {node.namespace}",
            f"link add {node.veth} type veth peer name eth0 netns {node.namespace}",
            f"link set {node.veth} master {layout.bridge} up",
            f"route add {node.pods} via {node.address}",
        ]
    host.append(f"route add {layout.services} via {layout.control_node.address}")
    run(["ip", "-batch", "-"], text="\n".join(host) + "\n")
    for node in layout.nodes:
        inside = [
            "link set lo up",
            f"addr add {node.address}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {layout.host_address}",
            *(f"route add {other.pods} via {other.address}" for other in layout.nodes if other != node),
        ]
        run(["ip", "-n", node.namespace, "-batch", "-"], text="\n".join(inside) + "\n")
        run(["nsenter", f"--net={node.namespace_path}", "sysctl", "-qw", "net.ipv4.ip_forward=1"])


def destroy(layout: Layout) -> None:
    """Take away what `create` made, as far as it is there.  The processes inside must have ended."""
    for node in layout.nodes:
        # ends the veth pair at once; a namespace that is merely unnamed would live on until the kernel collects it
        attempt(["ip", "link", "delete", node.veth])
        attempt(["ip", "netns", "delete", node.namespace])
    attempt(["ip", "link", "delete", layout.bridge])


def leftovers(layout: Layout) -> list[str]:
    """What of this instance's network is still on the machine, in words."""
    found: list[str] = []
    links = {link["ifname"] for link in json.loads(run(["ip", "-json", "link", "show"]))}
    found += [f"interface {name}" for name in (layout.bridge, *(node.veth for node in layout.nodes)) if name in links]
    found += [f"network namespace {node.namespace}" for node in layout.nodes if node.namespace_path.exists()]
    ours = _ranges(layout.slot)
    for route in _routes():
        if route["dst"] != "default" and any(IPv4Network(route["dst"]).subnet_of(mine) for mine in ours):
            found.append(f"route to {route['dst']}")
    return found
