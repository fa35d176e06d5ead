"""What an instance writes down: whose it is, and whether that one still lives."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from e2e.cluster import Cluster, processes
from e2e.cluster.record import Record, read


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("CACHE", str(tmp_path))
    monkeypatch.setattr("e2e.cluster.layout._LONGEST_FOLDER", 500)
    Record("some", 3, ("n1",), complete=True).save()
    return Cluster("some")


def test_an_instance_is_abandoned_when_its_owner_is_gone(cluster: Cluster) -> None:
    assert not cluster.abandoned  # it was started by hand, and nobody's
    cluster.own()
    assert not cluster.abandoned
    record = read("some")
    assert record is not None
    assert record.owner == processes.this("owner")
    record.owner = dataclasses.replace(record.owner, started=record.owner.started - 1)  # its id is another process's now
    record.save()
    assert cluster.abandoned
    record.remove()
    assert not cluster.abandoned


def test_what_is_not_there_is_nobodys(cluster: Cluster) -> None:
    Cluster("other").own()
    assert read("other") is None
