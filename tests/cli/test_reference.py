"""`chrysalis reference` and `measure --rebuild`: made, signed, shown, compared; 0, 1 or 2."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from chrysalis.api.reference import ReferenceValues
from chrysalis.cli import measure_rebuild
from chrysalis.cli.main import main
from chrysalis.cli.measure_rebuild import Built
from e2e.images import oci
from e2e.images.oci import Layer, RunConfig, new_layer
from tests.cli.documented import told as documented

FAR = "2126-01-01T00:00:00Z"


class Shell:
    """Runs the program in a folder."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        assert self("keys", "new-owner", folder / "publisher.key")[0] == 0
        self.publisher = self.said.strip()

    def __call__(self, *words: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        self.said, self.error = self._capsys.readouterr()
        return int(ended.value.code or 0), self.said

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def signed(self, name: str, *words: object) -> Path:
        code, text = self("reference", "make", "--release", "0.1.0", *words)
        assert code == 0, self.error
        code, envelope = self(
            "reference", "sign", "-f", self.write(f"{name}.values", text), "--publisher-key", self.folder / "publisher.key"
        )
        assert code == 0, self.error
        return self.write(name, envelope)


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    with new_layer(tmp_path / "layer.tar") as layer:
        layer.file("a", b"a")
    oci.write_layout(tmp_path / "image", [Layer.of(tmp_path / "layer.tar")], RunConfig())
    return tmp_path / "image"


def guest(shell: Shell, name: str = "guest", **registers: str) -> Path:
    return shell.write(f"{name}.json", json.dumps({"name": name, "mrtd": "aa" * 48, "rtmr1": "bb" * 48} | registers))


def test_a_release_is_published(shell: Shell, layout: Path) -> None:
    file = shell.signed("one", "--image", layout, "--template", 1, "--guest", guest(shell), "--policy-digest", "sha256:" + "3" * 64)
    code, text = shell("reference", "show", file, "--publisher", shell.publisher, "-o", "json")
    shown = json.loads(text)
    assert (code, shown["verdict"]) == (0, "Accepted")
    values = shown["referenceValues"]
    assert values["workerImages"] == [{"digest": oci.read_digest(layout), "layers": [Layer.of(layout.parent / "layer.tar").digest]}]
    assert (values["version"], values["templateVersions"]) == (1, [1])
    code, text = shell("reference", "show", file, "--publisher", shell.publisher)
    assert code == 0
    assert oci.read_digest(layout) in text


def test_the_next_release_repeats_what_was_withdrawn(shell: Shell) -> None:
    old = "sha256:" + "4" * 64
    first = shell.signed("one", "--withdraw", "WorkerImage", old, "a flaw", "--withdraw-guest", guest(shell, "bad"), "another")
    second = shell.signed("two", "--previous", first, "--withdraw", "WorkerImage", old, "the same again")
    code, text = shell("reference", "show", second, "--publisher", shell.publisher, "-o", "json")
    values = json.loads(text)["referenceValues"]
    assert (code, values["version"]) == (0, 2)
    assert [(entry["kind"], entry["why"]) for entry in values["withdrawn"]] == [("WorkerImage", "a flaw"), ("GuestImage", "another")]


def test_a_policy_takes_them(shell: Shell, layout: Path) -> None:
    file = shell.signed("one", "--image", layout, "--template", 1, "--guest", guest(shell), "--expires", FAR)
    code, text = shell("reference", "policy", file, "--publisher", shell.publisher)
    (entry,) = yaml.safe_load(text)
    assert json.loads(shell("reference", "policy", file, "--publisher", shell.publisher, "-o", "json")[1]) == [entry]
    assert code == 0
    assert (entry["mrtd"], entry["rtmr0"], entry["name"]) == ("aa" * 48, "Any", "guest")
    assert entry["initdata"]["imageDigests"] == [oci.read_digest(layout)]
    assert entry["expires"] == FAR


def test_another_publishers_are_refused(shell: Shell) -> None:
    file = shell.signed("one")
    code, text = shell("reference", "show", file, "--publisher", "ab" * 32, "-o", "json")
    assert (code, json.loads(text)["reasons"][0]["reason"]) == (1, "EnvelopeSignatureInvalid")
    assert shell("reference", "show", file, "--publisher", shell.publisher)[0] == 0  # the twin
    for words in (("reference", "policy", file), ("measure", "--rebuild", "--against", file)):
        code, text = shell(*words, "--publisher", "ab" * 32, "-o", "json")
        assert (code, json.loads(text)["reasons"][0]["reason"]) == (1, "EnvelopeSignatureInvalid")


def test_expired_ones_are_refused(shell: Shell, layout: Path) -> None:
    values: dict[str, Any] = {"version": 1, "release": "1", "issued": "2020-01-01T00:00:00Z", "expires": "2021-01-01T00:00:00Z"}
    file = shell.write("old.values", json.dumps(values))
    code, envelope = shell("reference", "sign", "-f", file, "--publisher-key", shell.folder / "publisher.key")
    assert code == 0
    old = shell.write("old", envelope)
    code, text = shell("reference", "show", old, "--publisher", shell.publisher, "-o", "json")
    assert (code, json.loads(text)["reasons"][0]["reason"]) == (1, "ReferenceValuesExpired")
    assert json.loads(text)["reasons"][0]["remedy"]
    assert shell("reference", "show", old, "--publisher", shell.publisher)[0] == 1
    assert "ReferenceValuesExpired: " in shell.error
    code, text = shell("reference", "policy", old, "--publisher", shell.publisher, "-o", "json")
    assert (code, json.loads(text)["reasons"][0]["reason"]) == (1, "ReferenceValuesExpired")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--policy-digest", "nothing"], "DocumentInvalid"),
        (["--image", "/nowhere"], "DocumentInvalid"),
        (["--guest", "/nowhere"], "FileUnusable"),
        (["--withdraw", "Nothing", "x", "y"], "DocumentInvalid"),
        (["--withdraw", "WorkerImage", "x", ""], "DocumentInvalid"),
        (["--template", "1", "--withdraw", "TemplateVersion", "1", "both"], "DocumentInvalid"),
        (["--expires", "2001-01-01T00:00:00Z"], "DocumentInvalid"),
    ],
)
def test_what_is_no_release_is_two(shell: Shell, words: list[str], said: str) -> None:
    assert shell("reference", "make", "--release", "0.1.0", *words)[0] == 2
    assert said in shell.error


@pytest.mark.parametrize("change", ["index", "manifest", "two", "blob"])
def test_a_layout_that_is_none_is_two(shell: Shell, layout: Path, change: str) -> None:
    index = layout / "index.json"
    if change == "index":
        index.write_text("{}")
    elif change == "two":
        document = json.loads(index.read_text())
        index.write_text(json.dumps(document | {"manifests": document["manifests"] * 2}))
    elif change == "manifest":
        (layout / "blobs/sha256" / oci.read_digest(layout).removeprefix("sha256:")).write_text("{}")
    else:
        index.write_text(index.read_text().replace("sha256:", "sha256:../../"))
    assert shell("reference", "make", "--release", "1", "--image", layout)[0] == 2
    assert "DocumentInvalid" in shell.error


BUILDER = """
    import json, sys
    assert sys.argv[1:] == ["-o", "json", "chrysalis-worker"]
    print(json.dumps({"images": [{"digest": "sha256:" + "5" * 64, "layers": ["sha256:" + "6" * 64], "templateVersion": 1}]}))
"""


@pytest.mark.parametrize(
    ("digest", "layer", "template", "code", "line"),
    [
        ("5", "6", 1, 0, ""),
        ("7", "6", 1, 1, "all layers are equal"),
        ("7", "8", 1, 1, "layer 0 is"),
        ("5", "6", 2, 1, "template version 1 is not published"),
        ("7", "", 1, 1, "its layers were not published"),
    ],
)
def test_rebuilding_compares(shell: Shell, tmp_path: Path, digest: str, layer: str, template: int, code: int, line: str) -> None:
    """The builder here is a stand-in; e2e/tests/test_reproducible.py runs the real one."""
    source = tmp_path / "source" / "e2e" / "images"
    source.mkdir(parents=True)
    (source / "__main__.py").write_text(textwrap.dedent(BUILDER))
    images = [{"digest": "sha256:" + digest * 64, "layers": ["sha256:" + layer * 64] if layer else []}]
    values = {"version": 1, "release": "1", "issued": "2020-01-01T00:00:00Z", "expires": FAR, "workerImages": images}
    file = shell.write("values", json.dumps(values | {"templateVersions": [template]}))
    envelope = shell.write("signed", shell("reference", "sign", "-f", file, "--publisher-key", tmp_path / "publisher.key")[1])
    words = ("measure", "--rebuild", "--source", tmp_path / "source", "--against", envelope, "--publisher", shell.publisher)
    found, text = shell(*words, "-o", "json")
    shown = json.loads(text)
    assert documented(shown, "measure --rebuild")
    assert (found, shown["verdict"]) == (code, "Differs" if code else "Reproduced"), shown
    assert any(line in difference for difference in shown["differences"]) or not line
    assert shell(*words)[0] == code


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rebuild"], "--against"),
        (["--rebuild", "--against", "x", "--publisher", "ab" * 32, "-o", "policy"], "text or json"),
        ([], "-f"),
    ],
)
def test_usage(shell: Shell, words: list[str], said: str) -> None:
    assert shell("measure", *words)[0] == 2
    assert said in shell.error


def test_sources_that_do_not_build_are_two(shell: Shell, tmp_path: Path) -> None:
    envelope = shell.signed("one")
    words = ("measure", "--rebuild", "--against", envelope, "--publisher", shell.publisher, "--source", tmp_path)
    assert shell(*words)[0] == 2
    assert "SourcesUnusable" in shell.error
    (tmp_path / "e2e/images").mkdir(parents=True)
    (tmp_path / "e2e/images/__main__.py").write_text("raise SystemExit(3)")
    assert shell(*words)[0] == 2
    assert "BuildFailed" in shell.error


def test_another_number_of_layers_is_named(shell: Shell) -> None:
    values = {"version": 1, "release": "1", "issued": "2020-01-01T00:00:00Z", "expires": FAR, "templateVersions": [1]}
    parsed = ReferenceValues.model_validate(
        values | {"workerImages": [{"digest": "sha256:" + "1" * 64, "layers": ["sha256:" + "2" * 64] * 2}]}
    )
    assert measure_rebuild.differences(Built("sha256:" + "3" * 64, [], 1), parsed)[1] == "  0 layers, published 2"
    assert measure_rebuild.differences(Built("x", [], 1), ReferenceValues.model_validate(values)) == ["no worker image is published"]
