"""The table of GPUs that live results rest on: one GPU serves one trust domain at a time.

A domain is known by its receipt key, which its evidence binds and which lives as long as the domain.  The pod's uid is the host's
word only: it never excuses a GPU that is in use, but when a domain that claims the same pod takes the GPU over (its agent was
restarted, so it has new keys), the older result ends in the same transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, insert, select

from chrysalis.broker.rooms import Room
from chrysalis.broker.tables import gpu_devices, results


@dataclass(frozen=True)
class Holder:
    """Who holds GPUs: a domain by its receipt key (hex), in a pod by what its host claims."""

    receipt_key: str
    namespace: str
    pod_uid: str


class GpuRoom(Room):
    """Which GPUs are in use."""

    def gpus_in_use(self, device_ids: Collection[str], holder: Holder, now: int) -> set[str]:
        """Those of the devices that a live result of another domain, in another pod, rests on."""
        if not device_ids:
            return set()
        with self.database.reading() as db:
            return {device for device, _ in _others(db, device_ids, holder, now, same_pod=False)}


def held_elsewhere(db: Connection, device_ids: Collection[str], holder: Holder, now: int) -> bool:
    """Whether a live result of another pod rests on one of the GPUs; inside the transaction that would store another one."""
    return bool(device_ids) and bool(_others(db, device_ids, holder, now, same_pod=False))


def claim(db: Connection, result_id: str, device_ids: Sequence[str], holder: Holder, now: int) -> list[str]:
    """Note that an accepted result rests on these GPUs, inside the transaction that stores it.

    Returns the ids of older results of the same pod that end thereby.  `held_elsewhere` is asked before.
    """
    if not device_ids:
        return []
    superseded = sorted({result for _, result in _others(db, device_ids, holder, now, same_pod=True)})
    rows = [{"result_id": result_id, "device_id": device, "receipt_key": holder.receipt_key} for device in sorted(set(device_ids))]
    db.execute(insert(gpu_devices), rows)
    return superseded


def _others(db: Connection, device_ids: Collection[str], holder: Holder, now: int, *, same_pod: bool) -> list[tuple[str, str]]:
    """(device, result) of other domains' live results, in this pod or in all others."""
    g, r = gpu_devices.c, results.c
    in_pod: ColumnElement[bool] = (r.namespace == holder.namespace) & (r.pod_uid == holder.pod_uid)
    query = (
        select(g.device_id, g.result_id)
        .join(results, r.result_id == g.result_id)
        .where(g.device_id.in_(list(device_ids)), g.receipt_key != holder.receipt_key)
        .where(r.verdict == "Accepted", r.revoked_at.is_(None), r.expires_at > now)
        .where(in_pod if same_pod else ~in_pod)
    )
    return [(str(device), str(result)) for device, result in db.execute(query)]
