"""What stands under each verb's help: exit codes where its own words do not say them, and an example.

`$NAME` stands for what only the user has: a key, a pin, an id.  A test puts every example through the parser.
"""

from __future__ import annotations

import click

LOCAL = "0 done, 2 usage or unreadable input."
ASKS = "0 done, 1 refused by the service, 2 usage or unreadable input, 3 it could not be reached."
BROKER = "0 done, 1 refused with a reason, 2 unreadable settings or input, 3 database or key service could not be reached."
CHAIN = "0 done, 1 the state says no, 2 usage or unreadable input, 3 liteservers or settler could not be reached."
_BROKER = "--broker https://broker.example:8443 --pin $PIN"
_OWNED = f"{_BROKER} --owner-key owner.key"

HELP: dict[str, tuple[str, list[str]]] = {
    "audit": ("", ["audit --receipts all.jsonl --epochs https://settler.example --chain ton.json --contract $CONTRACT --ear-key $EAR"]),
    "broker accept-rollback": (BROKER, ['broker accept-rollback --reason "the volume is lost"']),
    "broker audit-verify": (BROKER, ["broker audit-verify --config broker.yaml -o json"]),
    "broker backup": (BROKER, ["broker backup /backup/broker.tar"]),
    "broker recall-ear-key": (BROKER, ['broker recall-ear-key --reason "the database leaked" --all']),
    "broker rekey-model": (ASKS, [f"broker rekey-model minilm {_OWNED} --record record.yaml --identity new.identity"]),
    "broker restore": (BROKER, ["broker restore /backup/broker.tar --ear-key $EAR"]),
    "broker rotate-ear-key": (BROKER, ["broker rotate-ear-key"]),
    "broker rotate-root": (BROKER, ["broker rotate-root --config broker.yaml"]),
    "bundle get": (
        ASKS,
        [f"bundle get $RESULT {_OWNED} --out bundle.json"],
    ),
    "bundle inspect": ("", ["bundle inspect bundle.json"]),
    "bundle make": (LOCAL, ["bundle make --evidence attestation.json --policy policy.yaml --out bundle.json"]),
    "claim": ("", ["claim --chain ton.json --wallet-key wallet.seed --contract $CONTRACT --earned https://settler.example"]),
    "completion": (LOCAL, ["completion bash > /etc/bash_completion.d/chrysalis"]),
    "contract deploy": (
        CHAIN,
        [
            "contract deploy --chain ton.json --wallet-key wallet.seed --signer-key $SIGNER"
            " --per-epoch-cap-nanoton 50000000000 --top-up-nanoton 500000000"
        ],
    ),
    "contract show": (CHAIN, ["contract show $CONTRACT --chain ton.json -o json"]),
    "earnings": (CHAIN, ["earnings --wallet $WALLET --chain ton.json --contract $CONTRACT --epochs https://settler.example"]),
    "epochs": (CHAIN, ["epochs --chain ton.json --contract $CONTRACT"]),
    "eventlog replay": (
        "",
        [
            "eventlog replay ccel.bin --quote quote.bin --events",
            "eventlog replay ccel.bin --rtmr 0=$RTMR -o json",
        ],
    ),
    "gpu rim": (
        "",
        [
            "gpu rim driver.swidtag vbios.swidtag -o json > reference.json",
            "gpu rim driver.swidtag --ocsp-url https://ocsp.ndis.nvidia.com --revocation Required",
        ],
    ),
    "gpu verify": (
        "",
        [
            "gpu verify evidence.json --nonce $NONCE --rim driver.swidtag --rim vbios.swidtag",
            "gpu verify report.bin --chain chain.pem --nonce $NONCE --policy policy.yaml -o json",
            "gpu verify evidence.json --nonce $NONCE --rim driver.swidtag --ocsp signer.der --ocsp ca.der",
        ],
    ),
    "infer": (
        "0 done, 1 refused or the job failed, 2 usage or unreadable input, 3 the worker could not be reached.",
        [
            'infer "a sentence" --endpoint https://worker.example:8443 --policy policy.yaml',
            'infer "a sentence" --endpoint https://worker.example:8443 --policy signed.yaml --mode ear --ear-key $EAR',
        ],
    ),
    "inspect": (LOCAL, ["inspect model.age"]),
    "keys new-owner": (LOCAL, ["keys new-owner owner.key"]),
    "keys pin": (ASKS, ["keys pin https://broker.example:8443"]),
    "keys put": (ASKS, [f"keys put {_OWNED} --record record.yaml --identity model.identity"]),
    "keys recalls": (ASKS, [f"keys recalls {_BROKER} --ear-key $EAR --out recalls.jws"]),
    "keys recover": ("", ["keys recover broker.tar --identity owner.age --out recovered/"]),
    "keys show-owner": (LOCAL, ["keys show-owner owner.key"]),
    "keys verify-broker": ("", [f"keys verify-broker {_BROKER} --broker-policy broker-policy.yaml --ear-key $EAR"]),
    "ledger adopt": (CHAIN, ["ledger adopt --ledger ledger.sqlite --chain ton.json --contract $CONTRACT"]),
    "ledger export": (LOCAL, ["ledger export --ledger ledger.sqlite --out receipts.jsonl"]),
    "ledger show": (LOCAL, ["ledger show --ledger ledger.sqlite -o json"]),
    "measure": (
        "0 printed or reproduced, 1 --rebuild gives another image, 2 usage or unreadable input.",
        [
            "measure -f worker.yaml -f account.yaml -o policy --firmware firmware.json",
            "measure --rebuild --source . --against reference.json --publisher $PUBLISHER",
        ],
    ),
    "policy lint": ("", ["policy lint -f policy.yaml --strict"]),
    "policy sign": (ASKS, ["policy sign -f policy.yaml --owner-key owner.key --put https://broker.example:8443 --pin $PIN"]),
    "policy simulate": ("", [f"policy simulate -f new.yaml {_OWNED}"]),
    "receipts": (CHAIN, ["receipts --settler https://settler.example --pin $PIN --key client.seed --out mine.jsonl"]),
    "reference get": ("", [f"reference get {_BROKER} --publisher $PUBLISHER"]),
    "reference make": (LOCAL, ["reference make --release 0.2.0 --image image/ --template 1 --guest guest.json > reference.json"]),
    "reference policy": ("", ["reference policy reference.signed.json --publisher $PUBLISHER"]),
    "reference show": ("", ["reference show reference.signed.json --publisher $PUBLISHER"]),
    "reference sign": (ASKS, ["reference sign -f reference.json --publisher-key publisher.key > reference.signed.json"]),
    "seal": (LOCAL, ["seal repository/ -o model.age --identity-out model.identity"]),
    "status": ("", ["status cw/embedder -n acme"]),
    "unseal": (LOCAL, ["unseal model.age --identity model.identity --digest $DIGEST -o repository/"]),
    "verify": (
        "",
        [
            "verify quote.bin --collateral collateral.json --policy policy.yaml",
            "verify quote.bin --collateral collateral.json --report-data $REPORT_DATA --at 2026-08-28T05:21:24Z -o json",
            "verify --bundle bundle.json --owner $OWNER --ear-key $EAR",
        ],
    ),
}
"""By the verb's words: exit codes (empty where the verb's own help has them) and examples without `chrysalis`."""


def added(command: click.Command, words: tuple[str, ...]) -> click.Command:
    """The command with its exit codes and examples under its help, and so for all below it."""
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            added(below, (*words, name))
        return command
    codes, examples = HELP.get(" ".join(words), ("", []))
    parts = [f"Exit code: {codes}"] if codes else []
    if examples:
        parts.append("\n".join(["\b", "Example:" if len(examples) == 1 else "Examples:", *[f"  chrysalis {line}" for line in examples]]))
    command.epilog = "\n\n".join(parts) or None
    return command
