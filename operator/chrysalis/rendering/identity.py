"""The measured half of a worker: its initdata.  Depends on the worker's spec and its account's, on nothing else.

The name and namespace of the worker are not in it: they are the cluster's word, and the same worker measures the same
wherever it is applied.
"""

from __future__ import annotations

from chrysalis.api import names, wallet
from chrysalis.api.account import Liteserver, SettlementAccountSpec
from chrysalis.api.initdata import AllowedContainer, Initdata, MeasuredIdentity
from chrysalis.api.worker import BrokerPin, ConfidentialWorkerSpec, Isolation
from chrysalis.rendering.reasons import RenderError, RenderReason

TEMPLATE_VERSION = 1
COMMANDS: dict[str, list[str]] = {
    names.CONTAINER_GATEWAY: ["/opt/cv/bin/python3", "-I", "-m", "chrysalis_worker.agent"],
    names.CONTAINER_TRITON: ["/opt/tv/bin/python3", "-I", "-m", "chrysalis_worker.supervisor"],
}
"""Container name → its whole argv, which the guest compares word for word.

-I: without it Python would look for modules in the working directory first, and the host chooses that (and PYTHONPATH).
"""


def initdata(spec: ConfidentialWorkerSpec, account: SettlementAccountSpec | None) -> Initdata:
    """What the quote will cover; raises RenderError, or WalletError for a wallet that cannot be paid."""
    if spec.template_version != TEMPLATE_VERSION:
        raise RenderError(
            RenderReason.TEMPLATE_VERSION_UNKNOWN,
            f"template version {spec.template_version} is not known to this version of Chrysalis",
            f"set spec.templateVersion to {TEMPLATE_VERSION}, or upgrade",
        )
    if spec.isolation != Isolation.POD_TD:
        raise RenderError(
            RenderReason.ISOLATION_NOT_SUPPORTED,
            f"isolation {spec.isolation} is not built yet",
            "create the worker with spec.isolation: PodTD",
        )
    if spec.settlement_account_ref is not None and account is None:
        raise RenderError(
            RenderReason.ACCOUNT_NOT_FOUND,
            f"the SettlementAccount {spec.settlement_account_ref.name!r} is not there, and its contract is measured",
            "apply the SettlementAccount in the worker's namespace, or give it with a second -f",
        )
    return Initdata(containers=_allowed(spec.image), identity=_identity(spec, account if spec.settlement_account_ref else None))


def _allowed(image: str) -> list[AllowedContainer]:
    return [AllowedContainer(name=name, image=image, args=command) for name, command in COMMANDS.items()]


def _identity(spec: ConfidentialWorkerSpec, account: SettlementAccountSpec | None) -> MeasuredIdentity:
    # One form for each value: otherwise the same worker, written with other capitals, would measure differently.
    global_id = account.global_id if account else None
    return MeasuredIdentity(
        template_version=spec.template_version,
        isolation=spec.isolation,
        image_digest="sha256:" + spec.image.rsplit("@sha256:", 1)[1],
        model=spec.model.model_copy(update={"key_owner": spec.model.key_owner.lower()}) if spec.model.key_owner else spec.model,
        policy_name=spec.policy_ref.name,
        broker=BrokerPin(url=spec.broker.url, spki_sha256=spec.broker.spki_sha256.lower(), ear_key=spec.broker.ear_key.lower()),
        set=account.set_name if account else "none",
        wallet=wallet.to_raw(spec.payout.wallet, global_id=global_id) if spec.payout else "",
        fee_bps=account.fee_bps if account else 0,
        reservation_keys=[key.lower() for key in account.reservation_keys] if account else [],
        liteservers=[Liteserver(host=s.host, port=s.port, key=s.key.lower()) for s in account.liteservers] if account else [],
        prices=spec.prices,
    )
