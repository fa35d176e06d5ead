"""Genuine Intel evidence for the demo: from the folder of vectors, else from dcap-qvl's source distribution.

The distribution is fetched through the package index that pip is configured for, checked against the hash in the lock and
kept in the cache.  pip itself would also build it, which needs a Rust compiler, so pip's finder is asked for the address alone.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from e2e.demo.story import StepFailed

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTION = "dcap-qvl"
FETCH = """
import sys
from pip._internal.commands import create_command
name, version, target = sys.argv[1:]
command = create_command("download")
options, _ = command.parse_args(["--no-deps", "--no-binary", name, f"{name}=={version}"])
with command.main_context():
    session = command.get_default_session(options)
    finder = command._build_package_finder(options, session)
    link = next(c.link for c in finder.find_all_candidates(name) if str(c.version) == version)
    answer = session.get(link.url_without_fragment, headers={"Accept-Encoding": "identity"}, timeout=60)
    answer.raise_for_status()
open(target, "wb").write(answer.content)
"""


@dataclass(frozen=True)
class Samples:
    """A genuine quote with the collateral of its time and, where the vectors are there, with later collateral."""

    quote: Path
    collateral: Path
    later_collateral: Path | None
    source: str


def find(cache: Path) -> Samples:
    """The samples; raises StepFailed when neither the vectors nor the package index can be reached."""
    folder = Path(os.environ.get("CHRYSALIS_VECTORS") or ROOT.parent / "shared" / "vectors")
    if (folder / "MANIFEST.json").is_file():
        return Samples(
            folder / "dcap-qvl" / "tdx_quote",
            folder / "collateral" / "qvl-b0c0-2025-06.json",
            folder / "collateral" / "near-b0c0-2026-08.json",
            "the folder of vectors",
        )
    version, hashes = _pinned()
    target = cache / f"{DISTRIBUTION}-{version}"
    archive = target / "source.tar.gz"
    if not archive.is_file():
        target.mkdir(parents=True, exist_ok=True)
        partial = archive.with_suffix(".partial")
        fetched = subprocess.run([sys.executable, "-c", FETCH, DISTRIBUTION, version, str(partial)], capture_output=True, text=True)
        if fetched.returncode:
            raise StepFailed(f"no vectors in {folder}, and {DISTRIBUTION}'s source could not be fetched: {fetched.stderr[-300:]}")
        if hashlib.sha256(partial.read_bytes()).hexdigest() not in hashes:
            partial.unlink()
            raise StepFailed(f"the source distribution of {DISTRIBUTION} {version} has a hash that the lock does not list")
        partial.rename(archive)
    with tarfile.open(archive) as packed:
        for name in ("tdx_quote", "tdx_quote_collateral.json"):
            member = packed.extractfile(f"{DISTRIBUTION.replace('-', '_')}-{version}/sample/{name}")
            if member is None:
                raise StepFailed(f"{DISTRIBUTION} {version} carries no sample/{name}")
            (target / name).write_bytes(member.read())
    return Samples(target / "tdx_quote", target / "tdx_quote_collateral.json", None, f"{DISTRIBUTION} {version}'s source distribution")


def _pinned() -> tuple[str, set[str]]:
    """Version and SHA-256 hashes of the distribution in the lock."""
    lines = iter((ROOT / "requirements" / "dev.txt").read_text().splitlines())
    version = ""
    hashes: set[str] = set()
    for line in lines:
        if line.startswith(f"{DISTRIBUTION}=="):
            version = line.removesuffix("\\").strip().split("==")[1]
        elif version and line.strip().startswith("--hash=sha256:"):
            hashes.add(line.strip().removesuffix("\\").strip().split(":", 1)[1])
        elif version:
            break
    return version, hashes
