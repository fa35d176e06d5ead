"""The project's own lint rules, over the files that git tracks: size of rooms, and words that must not be committed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

MAX_LINES = 600
EMPTY_NAMES = re.compile(r"(^|/)(utils?|helpers?|misc|common)(\.py|/)")
HOSTS = re.compile(
    r"pypi\.or" + r"g|pythonhoste" + r"d|registry\.npmj" + r"s|proxy\.golan" + r"g|deb\.debian\.or" + r"g|static\.crate" + r"s"
)
MACHINE_PATHS = re.compile(r"(?<![\w.])/(work|root)/(main|shared|\.)")
GENERATED = ("requirements/", "crds/", "contracts/package-lock.json")


def main() -> int:
    tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], check=True, capture_output=True, text=True).stdout.split()
    problems: list[str] = []
    for name in tracked:
        path = Path(name)
        if not path.is_file():
            continue
        if EMPTY_NAMES.search(name):
            problems.append(f"{name}: a name that says nothing; name what it is for")
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        if path.suffix in {".py", ".js", ".tolk", ".sh"} and not name.startswith(GENERATED) and len(text.splitlines()) > MAX_LINES:
            problems.append(f"{name}: {len(text.splitlines())} lines; over {MAX_LINES} it is two rooms")
        for number, line in enumerate(text.splitlines(), 1):
            if HOSTS.search(line):
                problems.append(f"{name}:{number}: names a package registry's host")
            if MACHINE_PATHS.search(line):
                problems.append(f"{name}:{number}: names a path of one machine")
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
