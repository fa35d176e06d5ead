"""Measured and claimed identity, and when claims contradict each other.  Pure.

Measured is what initdata says: the quote covers it (MRCONFIGID), a policy judges it, it authorises.  Claimed is what the
untrusted host says of a pod (its uid, its names, its node): it correlates and never authorises.  No message has a member in
which a worker could claim what is measured, so the two cannot contradict each other; only claims can, and only among
domains that are accepted and alive at the same time.  A conflict refuses no evidence and no key, since anybody with an
accepted worker could otherwise lock out another by a claim; it says that nobody may rely on the claim, so neither pod
becomes ready (the operator's reason IdentityConflict).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

NAMES = ("namespace", "podName", "workerName", "nodeName")
"""Claims that cannot differ for one pod; an empty one claims nothing."""


class ConflictKind(StrEnum):
    """What contradicts what.  Never renamed."""

    POD_SHARED = "PodShared"  # two domains (receipt keys) claim one pod uid
    DOMAIN_MOVED = "DomainMoved"  # one domain claims two pod uids
    POD_RENAMED = "PodRenamed"  # one pod uid is claimed under two names, namespaces, workers or nodes


@dataclass(frozen=True)
class LiveDomain:
    """An accepted, unexpired and unrevoked result: the domain's own key, and what its host claims."""

    receipt_key: str  # hex; lives as long as the trust domain, so it is the domain's name
    pod_uid: str = ""
    names: Mapping[str, str] = field(default_factory=dict)  # of NAMES


@dataclass(frozen=True)
class Conflict:
    """One contradiction, and the value that two results disagree about."""

    kind: ConflictKind
    about: str
    message: str


def conflicts(domains: Iterable[LiveDomain]) -> list[Conflict]:
    """Every contradiction among live domains, each told once; renewals of one domain, which claim the same, are none."""
    keys: dict[str, set[str]] = {}
    pods: dict[str, set[str]] = {}
    names: dict[tuple[str, str], set[str]] = {}
    for domain in domains:
        if not domain.pod_uid:
            continue
        key = domain.receipt_key.lower()
        keys.setdefault(domain.pod_uid, set()).add(key)
        pods.setdefault(key, set()).add(domain.pod_uid)
        for name in NAMES:
            if value := domain.names.get(name, ""):
                names.setdefault((domain.pod_uid, name), set()).add(value)
    found = [
        Conflict(ConflictKind.POD_SHARED, uid, f"{len(those)} trust domains with live results claim to be this pod")
        for uid, those in keys.items()
        if len(those) > 1
    ]
    found += [
        Conflict(ConflictKind.DOMAIN_MOVED, key, f"one trust domain claims to be {len(those)} pods: {', '.join(sorted(those))}")
        for key, those in pods.items()
        if len(those) > 1
    ]
    found += [
        Conflict(ConflictKind.POD_RENAMED, uid, f"live results give this pod two values of {name}: {', '.join(sorted(those))}")
        for (uid, name), those in names.items()
        if len(those) > 1
    ]
    return found
