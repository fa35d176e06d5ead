"""`chrysalis infer`: which mode was used, who judged, and what nobody checked stand in every output; options of other modes are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.api.policy import SignedPolicy
from chrysalis.cli.main import main
from chrysalis.wire import dsse
from chrysalis.wire.broker import PAYLOAD_POLICY
from tests.cli.documented import told as documented
from tests.client.conftest import platform, serve  # noqa: F401 - fixtures

MODEL = "sha256:" + "1" * 64


def raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


class Shell:
    """The command against one worker: its policy unsigned in `bare`, signed by its owner in `signed`."""

    def __init__(self, served: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.served, self.folder, self._capsys = served, folder, capsys
        spec = served.worker.policy()
        payload = SignedPolicy(name="minilm", spec=spec).model_dump_json(by_alias=True, exclude_none=True).encode()
        envelope = dsse.sign(PAYLOAD_POLICY, payload, served.worker.owner)
        self.bare, self.signed = folder / "policy.yaml", folder / "signed.yaml"
        self.bare.write_text(yaml.safe_dump(spec.to_json_dict()))
        self.signed.write_text(yaml.safe_dump(spec.to_json_dict() | {"envelope": envelope.to_json_dict()}))
        self.ear = ["--mode", "ear", "--ear-key", raw(served.worker.ear).hex()]
        self.owner = ["--policy-owner", raw(served.worker.owner).hex(), "--policy-name", "minilm"]

    def run(self, *words: str, policy: Path | None = None, only: bool = True) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        given = ["--endpoint", self.served.endpoint, "--policy", str(policy or self.bare), "--model-digest", MODEL, "a text"]
        with pytest.raises(SystemExit) as ended:
            main(["infer", *given, *words, *(["--verify-only"] if only else [])])
        shown = self._capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    def json(self, *words: str, **options: Any) -> dict[str, Any]:
        code, out, err = self.run(*words, "-o", "json", **options)
        assert code == 0, out + err
        answer: dict[str, Any] = json.loads(out)
        return answer


@pytest.fixture
def shell(serve: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:  # noqa: F811
    return Shell(serve(set_name="none"), tmp_path, capsys)


def test_fresh_quote_is_the_default(shell: Shell) -> None:
    told = shell.json()
    assert documented(told, "infer")
    assert (told["mode"], told["freshness"], told["revocation"], told["judgedBy"]) == ("fresh-quote", "OwnNonce", "NotChecked", "Client")
    assert (told["evidenceClass"], told["isolation"], told["placement"]) == ("Simulated", "PodTD", None)
    assert (told["verdict"], told["appraisal"]["verdict"], told["result"], told["checkedBy"]["broker"]) == (
        "Accepted",
        "Accepted",
        None,
        [],
    )
    code, out, _ = shell.run()
    assert code == 0
    for words in (
        "verified (fresh-quote): evidence Simulated",
        "PodTD",
        "freshness: OwnNonce, revocation: NotChecked",
        "judged by: Client",
    ):
        assert words in out
    assert "checked by: broker" not in out


def test_ear(shell: Shell) -> None:
    told = shell.json(*shell.ear, policy=shell.signed)
    assert (told["mode"], told["freshness"], told["revocation"], told["judgedBy"]) == ("ear", "BrokerNonce", "NotChecked", "Broker")
    assert (told["evidenceClass"], told["isolation"], told["placement"]) == ("Simulated", "PodTD", "Development")
    assert (told["verdict"], told["appraisal"], told["result"]["chrysalis_result"]["policyName"]) == ("Accepted", None, "minilm")
    assert told["limitedBy"] == "freshness.maxResultAgeSeconds"
    assert shell.json(*shell.ear, "--max-ear-age", "600", policy=shell.signed)["limitedBy"] == "maxEarAge"
    code, out, _ = shell.run(*shell.ear, policy=shell.signed)
    assert code == 0
    for words in (
        "verified (ear)",
        "freshness: BrokerNonce",
        "judged by: Broker in placement Development",
        "checked by: broker: tdx.tcb.adv",
    ):
        assert words in out
    assert shell.json(*shell.ear, *shell.owner)["mode"] == "ear"  # an unsigned policy, and whose it is


def test_offline_says_so_in_both_outputs(shell: Shell) -> None:
    told = shell.json("--mode", "offline")
    assert (told["mode"], told["freshness"], told["revocation"], told["judgedBy"]) == ("offline", "NotChecked", "NotChecked", "Client")
    code, out, _ = shell.run("--mode", "offline")
    assert code == 0
    for words in (
        "verified (offline)",
        "freshness: NotChecked, revocation: NotChecked",
        "note: the evidence is genuine and allowed, but nobody",
    ):
        assert words in out


def test_offline_with_collateral_of_ones_own(shell: Shell) -> None:
    worker, file = shell.served.worker, shell.folder / "collateral.json"
    worker.bends = {"collateral": lambda c: "{}"}
    file.write_text(worker.collateral)
    assert shell.run("--mode", "offline")[0] == 1
    assert shell.json("--mode", "offline", "--collateral", str(file))["mode"] == "offline"
    file.write_text(json.dumps({"collateral": json.loads(worker.collateral)}))  # as other tools keep it
    assert shell.json("--mode", "offline", "--collateral", str(file))["mode"] == "offline"


def test_the_answer_of_a_job_says_it_too(shell: Shell) -> None:
    shell.served.worker.set_name = "none"
    told = shell.json(*shell.ear, policy=shell.signed, only=False)
    assert documented(told, "infer")
    assert (told["mode"], told["embeddings"]) == ("ear", [[6.0, 1.0]])


@pytest.mark.parametrize("mode", ["fresh-quote", "ear", "offline"])
def test_the_saved_bundle_says_it_and_is_judged_again(shell: Shell, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = shell.folder / "bundle.json"
    words = shell.ear if mode == "ear" else ["--mode", mode]
    told = shell.json(*words, "--save-bundle", str(file), policy=shell.signed)
    with pytest.raises(SystemExit) as ended:
        main(["verify", "--bundle", str(file), "-o", "json"])
    judged = json.loads(capsys.readouterr().out)
    assert ended.value.code in (0, None), judged
    names = ("mode", "freshness", "revocation", "evidenceClass", "isolation", "judgedBy")
    assert judged["recordedVerification"] == {name: told[name] for name in names} | {"gpuAnswers": "NotWanted"}
    with pytest.raises(SystemExit):
        main(["verify", "--bundle", str(file)])
    assert (
        f"by a client: {mode}, freshness {told['freshness']}, revocation NotChecked, judged by {told['judgedBy']}"
        in capsys.readouterr().out
    )


def test_a_refusal_names_the_mode(shell: Shell) -> None:
    shell.served.worker.bends = {"document": lambda d: d.model_copy(update={"ear": ""})}
    code, out, err = shell.run(*shell.ear, policy=shell.signed)
    assert (code, "EarMissing: " in err, "(mode ear)" in err) == (1, True, True)
    code, out, _ = shell.run(*shell.ear, "-o", "json", policy=shell.signed)
    told = json.loads(out)
    assert (code, told["reason"], told["mode"], bool(told["remedy"])) == (1, "EarMissing", "ear", True)
    assert (told["schemaVersion"], told["verdict"], [reason["reason"] for reason in told["reasons"]]) == (
        "chrysalis/v1",
        "Refused",
        ["EarMissing"],
    )


def test_a_refused_appraisal_and_no_worker_at_all_say_their_reasons_in_the_same_place(shell: Shell) -> None:
    spec = yaml.safe_load(shell.bare.read_text())
    shell.bare.write_text(yaml.safe_dump(spec | {"isolation": ["NodeTD"]}))
    code, out, err = shell.run("-o", "json")
    told = json.loads(out)
    assert (code, told["verdict"], told["reason"]) == (1, "Refused", "EvidenceRefused")
    assert told["reasons"][0]["reason"] in told["message"]
    assert "EvidenceRefused" in err
    shell.served.endpoint = "https://127.0.0.1:9"
    code, out, err = shell.run("-o", "json")
    told = json.loads(out)
    assert (code, told["verdict"], told["mode"]) == (3, None, "fresh-quote")
    assert [reason["reason"] for reason in told["reasons"]] == ["ServiceUnreachable"]


def test_a_result_that_is_too_old(shell: Shell) -> None:
    code, _, err = shell.run(*shell.ear, "--max-ear-age", "30", policy=shell.signed)
    assert (code, "EarTooOld" in err) == (1, True)
    assert shell.run(*shell.ear, "--max-ear-age", "300", policy=shell.signed)[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mode", "ear"], "--ear-key"),
        (["--mode", "ear", "--ear-key", "ab" * 32], "whose policy"),
        (["--max-ear-age", "60"], "belongs to --mode ear"),
        (["--policy-name", "minilm"], "belongs to --mode ear"),
        (["--mode", "offline", "--policy-owner", "ab" * 32], "belongs to --mode ear"),
        (["--collateral", "x"], "belongs to --mode offline"),
        (["--mode", "offline", "--check-revocation", "required", "--broker", "https://b", "--pin", "ab" * 32], "asks no broker"),
        (["--check-revocation", "required"], "needs --broker and --pin"),
        (["--broker", "https://b"], "belongs to --check-revocation"),
        (["--mode", "ear", "--max-ear-age", "0"], "max-ear-age"),
        (["--mode", "yes"], "--mode"),
    ],
)
def test_options_that_do_not_belong_together_are_a_usage_error(shell: Shell, words: list[str], said: str) -> None:
    code, _, err = shell.run(*words)
    assert (code, said in err) == (2, True), err
    assert shell.served.worker.shown == []


def test_an_option_may_not_contradict_the_signed_policy(shell: Shell) -> None:
    code, _, err = shell.run(*shell.ear, "--policy-owner", "ab" * 32, policy=shell.signed)
    assert (code, "is signed by" in err) == (2, True)
    assert shell.run(*shell.ear, *shell.owner, policy=shell.signed)[0] == 0


def test_a_policy_whose_signature_does_not_hold_names_nobody(shell: Shell) -> None:
    document = yaml.safe_load(shell.signed.read_text())
    document["envelope"]["signatures"][0]["keyid"] = "ab" * 32
    forged = shell.folder / "forged.yaml"
    forged.write_text(yaml.safe_dump(document))
    code, _, err = shell.run(*shell.ear, policy=forged)
    assert (code, "EnvelopeSignatureInvalid" in err, shell.served.worker.shown) == (2, True, [])


def test_a_broker_that_is_not_reached_is_said_or_stops(shell: Shell) -> None:
    asked = ["--check-revocation", "if-reachable", "--broker", "https://127.0.0.1:9", "--pin", "ab" * 32]
    told = shell.json(*asked)
    assert (told["revocation"], told["revocationDetail"].startswith("ServiceUnreachable")) == ("NotChecked", True)
    code, _, err = shell.run("--check-revocation", "required", *asked[2:])
    assert (code, "RevocationNotChecked" in err) == (1, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nras-keys", "{policy}"], "--nras-keys belongs to --nras-url"),
        (["--nras-url", "http://nras.example"], "--nras-url: "),  # TLS alone says who answers
        (["--ocsp-url", "ftp://ocsp.example"], "--ocsp-url: "),
        (["--ocsp-url", "http://ocsp.example", "--gpu-services-ca", "{policy}"], "--gpu-services-ca cannot be used"),
        (["--mode", "offline", "--ocsp-url", "http://ocsp.example"], "belongs to --mode fresh-quote"),
    ],
)
def test_services_that_cannot_be_asked(shell: Shell, words: list[str], said: str) -> None:
    code, _, err = shell.run(*(word.format(policy=shell.bare) for word in words))
    assert code == 2
    assert said in err


def test_services_that_the_policy_does_not_want_are_not_asked(shell: Shell) -> None:
    assert shell.json("--nras-url", "https://127.0.0.1:1", "--ocsp-url", "http://127.0.0.1:1")["gpu"] is None


def test_a_policy_without_end_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["infer", "--endpoint", "https://127.0.0.1:1", "--policy", "/dev/zero", "x"])
    assert ended.value.code == 2
    assert "FileUnreadable" in capsys.readouterr().err
