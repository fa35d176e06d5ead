"""The system layer of an image: a few Debian packages and what they need, extracted, not installed; no package manager inside.

The packages come from the sources that this machine's own apt uses, whatever they are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from e2e.images import bytecode
from e2e.images.oci import EPOCH, LayerWriter, new_layer
from e2e.images.reasons import ImageError, Reason

USER = 65532
"""Every process of these images runs as this user and group, which is called `nonroot`."""
PYTHON_PACKAGES = ("python3.11", "libstdc++6", "libgcc-s1")
"""What the operator's image needs."""
TRITON_PACKAGES = (*PYTHON_PACKAGES, "libpython3.11", "bash", "libtinfo6")
"""Triton's Python stub needs Debian's libpython; Triton looks for the stub with a shell and starts it with bash."""
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_PROGRAMS = ("python3.11", "bash")
"""All that can be started; dpkg, tar and the like come along as dependencies and stay out."""
_USR_LINKS = ("bin", "lib", "lib64", "sbin")
_UNUSED_MODULES = ("ensurepip", "idlelib", "lib2to3", "pydoc_data", "turtledemo", "test", "sitecustomize.py", "EXTERNALLY-MANAGED")
_EMPTY_FOLDERS = ("dev", "opt", "proc", "run", "sys", "usr/lib64", "usr/sbin", "var")
_TARGET = "$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(CREATED_BY)"
_PASSWD = f"root:x:0:0::/root:/usr/sbin/nologin\nnonroot:x:{USER}:{USER}::/tmp:/usr/sbin/nologin\n"
_GROUP = f"root:x:0:\nnonroot:x:{USER}:\n"


def write_layer(tar: Path, packages: Sequence[str], work: Path, say: Callable[[str], None]) -> None:
    """Write the layer with these packages.  work: an empty folder, used on the way.  Raises ImageError."""
    root = work / "root"
    say(f"  extracting Debian packages: {' '.join(packages)}")
    _extract(root, packages)
    modules = root / "usr/lib/python3.11"
    for name in _UNUSED_MODULES:
        _remove(modules / name)
    bytecode.compile_tree(modules, "/usr/lib/python3.11")
    with new_layer(tar) as layer:
        _write_tree(root, layer)
        for name in _EMPTY_FOLDERS:
            layer.folder(name)
        layer.folder("tmp", 0o1777)
        layer.file("etc/passwd", _PASSWD.encode())
        layer.file("etc/group", _GROUP.encode())
        layer.file("etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n")
    shutil.rmtree(root)


def _write_tree(root: Path, layer: LayerWriter) -> None:
    """What of the extracted packages goes into the image: a list of what does, so that nothing comes along unseen."""
    for name in _USR_LINKS:
        if (root / name).is_symlink():
            layer.link(name, os.readlink(root / name))
    for program in _PROGRAMS:
        if (root / "usr/bin" / program).exists():
            layer.copy(root / "usr/bin" / program, f"usr/bin/{program}")
            if program == "bash":
                layer.link("usr/bin/sh", "bash")
    layer.tree(root / "usr/lib/python3.11", "usr/lib/python3.11")
    for libraries in sorted((root / "usr/lib").glob("*-linux-gnu")):
        _remove(libraries / "gconv")  # conversions of character sets that nothing here uses
        layer.tree(libraries, f"usr/lib/{libraries.name}")
    for loader in sorted((root / "usr/lib64").glob("*")):
        layer.link(f"usr/lib64/{loader.name}", os.readlink(loader))
    for licence in sorted((root / "usr/share/doc").glob("*/copyright")):
        layer.file(f"usr/share/doc/{licence.parent.name}/copyright", licence.read_bytes())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _extract(root: Path, packages: Sequence[str]) -> None:
    if shutil.which("mmdebstrap") is None:
        raise ImageError(Reason.TOOL_MISSING, "mmdebstrap is not installed", "run `make setup` as root; it installs what is missing")
    arguments = ["mmdebstrap", "--quiet", "--variant=extract", "--format=directory", f"--include={','.join(packages)}"]
    # /usr holds everything and /bin, /lib are links, as on an installed Debian
    arguments.append("--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr")
    arguments += [f"--aptopt={line}" for line in _apt_proxies()]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH), "TMPDIR": str(root.parent)}
    sources = "\n".join(debian_sources()) + "\n"
    done = subprocess.run([*arguments, "", str(root), "-"], input=sources, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ImageError(
            Reason.DEBIAN_FAILED,
            f"mmdebstrap ended with {done.returncode}",
            "if a download failed, see that `apt-get update` works on this machine, then run it again",
            detail=done.stderr[-2000:],
        )


def debian_sources() -> list[str]:
    """The Debian sources of this machine's apt, one line each as in sources.list; other vendors' are left out.

    Raises ImageError when apt knows none, also after it was asked to update its lists.
    """
    for update in (False, True):
        if update:
            subprocess.run(["apt-get", "update", "-qq"], stdin=subprocess.DEVNULL, capture_output=True)
        lines = parse_targets(
            _output(["apt-get", "indextargets", "--format", "$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(CREATED_BY)"])
        )
        if lines:
            return lines
    raise ImageError(
        Reason.DEBIAN_FAILED,
        "apt of this machine has no Debian sources",
        "the images are made from Debian 12 packages: run this on Debian, or add its sources to apt and run `apt-get update`",
    )


def parse_targets(listing: str) -> list[str]:
    """sources.list lines out of apt's index targets (fields: origin, URI, release, component, kind; separated by |)."""
    signed = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
    found: list[str] = []
    for line in listing.splitlines():
        origin, uri, release, component, kind = (*line.split("|"), "", "", "", "", "")[:5]
        if origin == "Debian" and kind == "Packages":
            found.append(f"deb {signed}{uri} {release} {component}")
    return sorted(set(found))


def _apt_proxies() -> Iterable[str]:
    """apt's own settings of how to reach its sources, which mmdebstrap does not read by itself."""
    lines = _output(["apt-config", "dump"]).splitlines()
    return [line for line in lines if line.startswith("Acquire::") and ("Proxy" in line or "::CAInfo" in line) and '""' not in line]


def _output(arguments: Sequence[str]) -> str:
    try:
        return subprocess.run(list(arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout
    except FileNotFoundError:
        return ""
