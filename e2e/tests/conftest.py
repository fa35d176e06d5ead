"""Fixtures of the scenarios on the real cluster: the cluster itself, a namespace for each test, images on its nodes."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from e2e import images
from e2e.cluster import Cluster, ClusterError
from e2e.demo.story import Console, Outcome, Step, play, table
from e2e.demo.world import World

INSTANCE = os.environ.get("CHRYSALIS_INSTANCE") or "test"
_FAILED = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The tests' own cluster: reused and left running when it runs already, else booted, and ended unless KEEP=1.

    What a run that was killed has left is not used: nobody knows what is in it.
    """
    if os.geteuid() != 0:
        pytest.skip("the cluster needs root")
    made = Cluster(INSTANCE)
    if made.abandoned:
        made.down()
    found = made.status().state == "up"
    made.up()
    if not found and os.environ.get("KEEP") != "1":
        made.own()
    yield made
    if not found and os.environ.get("KEEP") != "1":
        made.down()


@pytest.fixture(scope="session")
def told(pytestconfig: pytest.Config) -> Callable[[str, Callable[[World], list[Step]]], dict[int, Outcome]]:
    """`told(instance, steps)` plays a story once and gives its outcomes by the steps' numbers."""

    def tell(instance: str, steps: Callable[[World], list[Step]]) -> dict[int, Outcome]:
        world = World(instance, Path(tempfile.mkdtemp(prefix="chrysalis-e2e-")), keep=False)
        capture = pytestconfig.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():  # progress is for whoever watches a run that takes minutes
            print(file=sys.stdout)
            played = play(steps(world), Console(stream=sys.stdout))
            print(table(played), flush=True)
        return {outcome.step.number: outcome for outcome in played}

    return tell


@pytest.fixture(scope="session")
def image(cluster: Cluster) -> Callable[[str], str]:
    """`image("chrysalis")` builds an image, brings it onto the nodes and gives its reference by digest."""
    references: dict[str, str] = {}

    def load(name: str) -> str:
        if name not in references:
            built = images.build(name)
            references[name] = cluster.import_image(built.archive, built.repository)
        return references[name]

    return load


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of this test alone, ready for pods; when the test fails, its pods and events are shown."""
    name = f"t-{secrets.token_hex(4)}"
    cluster.kubectl("create", "namespace", name)
    # pods are refused until the controller has made the default service account
    cluster.wait(f"the service account of {name}", lambda: _exists(cluster, "serviceaccount/default", name))
    yield name
    if request.node.stash.get(_FAILED, False):
        print(cluster.kubectl("get", "all", "--namespace", name, "--output", "wide"))
        print(cluster.kubectl("get", "events", "--namespace", name, "--sort-by=.lastTimestamp"))
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def _exists(cluster: Cluster, what: str, namespace: str) -> bool:
    try:
        cluster.kubectl("get", what, "--namespace", namespace)
    except ClusterError:
        return False
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember for the fixtures above whether the test itself failed."""
    report = yield
    if report.when == "call" and report.failed:
        item.stash[_FAILED] = True
    return report
