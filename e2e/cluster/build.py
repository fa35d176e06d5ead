"""The programs of the cluster, built from the Go modules in `programs/` and kept in the cache by what went into them.

With an empty Go cache this takes about twelve minutes on two cores; with a warm one the links alone remain, about a minute; once
built, nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chrysalis.clock import SystemClock
from e2e import cache, golang
from e2e.cluster.reasons import ClusterError, Reason

KUBERNETES_VERSION = "v1.37.2"
SOURCES = Path(__file__).resolve().parent / "programs"
_VERSION_PACKAGE = "k8s.io/component-base/version"
_MAJOR, _MINOR, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
VERSIONED = " ".join(
    [
        golang.STRIPPED,
        f"-X {_VERSION_PACKAGE}.gitVersion={KUBERNETES_VERSION}",
        f"-X {_VERSION_PACKAGE}.gitMajor={_MAJOR}",
        f"-X {_VERSION_PACKAGE}.gitMinor={_MINOR}",
        f"-X {_VERSION_PACKAGE}.gitTreeState=clean",
    ]
)
"""What a Kubernetes program says when it is asked for its version; without it the programs refuse to talk to each other."""


@dataclass(frozen=True)
class Program:
    """One executable: the module folder it is built in, its package, and the linker's flags."""

    name: str
    module: str
    package: str = "."
    linker_flags: str = golang.STRIPPED


def _kubernetes(name: str) -> Program:
    return Program(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", VERSIONED)


PROGRAMS = (
    _kubernetes("kube-apiserver"),
    _kubernetes("kube-controller-manager"),
    _kubernetes("kube-scheduler"),
    _kubernetes("kubelet"),
    _kubernetes("kube-proxy"),
    _kubernetes("kubectl"),
    Program("etcd", "etcd"),
    Program("coredns", "coredns"),
    Program("helm", "helm", "helm.sh/helm/v4/cmd/helm"),
    Program("pause", "pause"),
)

Say = Callable[[str], None]
"""Where a line of progress goes."""


def programs(say: Say = print) -> Path:
    """The folder with all programs; builds them if these sources, flags and Go version were not built before.

    Raises ClusterError when Go is missing or a build fails.
    """
    try:
        version = golang.version()
    except golang.GoMissing as error:
        raise ClusterError(Reason.TOOL_MISSING, str(error), "install Go 1.26 or newer; the cluster's programs are built with it") from error
    sources = [path for path in SOURCES.rglob("*") if path.is_file()]
    key = cache.key(version, repr(PROGRAMS), " ".join(golang.FLAGS), sources)
    return cache.entry("kubernetes", key, lambda folder: _build_all(folder, say))


def _build_all(folder: Path, say: Say) -> None:
    clock = SystemClock()
    say(f"building {len(PROGRAMS)} programs from their Go modules; the first time this takes about twelve minutes on two cores")
    for number, program in enumerate(PROGRAMS, 1):
        say(f"  program {number} of {len(PROGRAMS)}: {program.name} …")
        started = clock.monotonic()
        _build_one(program, folder)
        size = (folder / program.name).stat().st_size / 1e6
        say(f"  program {number} of {len(PROGRAMS)}: {program.name} built in {clock.monotonic() - started:.0f} s ({size:.0f} MB)")


def _build_one(program: Program, folder: Path) -> None:
    try:
        golang.build(SOURCES / program.module, folder / program.name, package=program.package, linker_flags=program.linker_flags)
    except golang.BuildFailed as error:
        raise ClusterError(
            Reason.PROGRAM_BUILD_FAILED,
            f"{program.name} could not be built",
            "read the lines below; a download that failed can simply be run again, what is built stays in Go's cache",
            detail=str(error),
        ) from error


if __name__ == "__main__":
    print(programs())
