"""Building from Go modules: a download that fails does not fail the build at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e import golang


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of Go: fails as often as the file `failures` has lines."""
    program = tmp_path / "bin" / "go"
    program.parent.mkdir()
    program.write_text(f"""#!/bin/sh
cd {tmp_path}; echo "$CGO_ENABLED $*" >>asked
[ -s failures ] || exit 0
sed -i 1d failures; echo "unexpected EOF" >&2; exit 1
""")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setattr(golang, "PAUSE_SECONDS", 0.0)
    return tmp_path


@pytest.mark.parametrize("failures", [0, 1, golang.ATTEMPTS - 1, golang.ATTEMPTS])
def test_a_build_is_tried_again(go: Path, failures: int) -> None:
    (go / "failures").write_text("x\n" * failures)
    if failures < golang.ATTEMPTS:
        golang.build(go, go / "made")
    else:
        with pytest.raises(golang.BuildFailed, match="unexpected EOF"):
            golang.build(go, go / "made")
    asked = (go / "asked").read_text().splitlines()
    assert asked == [f"0 build {' '.join(golang.FLAGS)} -ldflags -s -w -o {go}/made ."] * min(failures + 1, golang.ATTEMPTS)


def test_without_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(golang.GoMissing, match="not on the PATH"):
        golang.version()
