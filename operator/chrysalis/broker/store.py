"""All of the broker's tables behind one object; the SQL stands in the rooms (`*_store.py`), the promises in `database`."""

from __future__ import annotations

from sqlalchemy import URL

from chrysalis.broker.audit_store import AuditRoom
from chrysalis.broker.collateral_store import CollateralRoom
from chrysalis.broker.database import Database
from chrysalis.broker.evidence_store import EvidenceRoom, NewEvidence, StoredEvidence
from chrysalis.broker.gpu_store import GpuRoom
from chrysalis.broker.ocsp_store import OcspRoom
from chrysalis.broker.reappraisal_store import Cause, ReappraisalRoom, Sweep
from chrysalis.broker.records_store import RecordsRoom, StoredKey, StoredPolicy
from chrysalis.broker.reference_store import ReferenceRoom
from chrysalis.broker.results_store import Basis, Checked, Kept, ResultsRoom, Revocation, StoredResult

__all__ = [
    "Basis",
    "Cause",
    "Checked",
    "Kept",
    "NewEvidence",
    "Revocation",
    "Store",
    "StoredEvidence",
    "StoredKey",
    "StoredPolicy",
    "StoredResult",
    "Sweep",
]


class Store(RecordsRoom, CollateralRoom, ResultsRoom, EvidenceRoom, ReappraisalRoom, ReferenceRoom, GpuRoom, OcspRoom, AuditRoom):
    """The broker's database.  Thread-safe."""

    def __init__(self, url: str | URL) -> None:
        """Open the database of a URL and bring its tables to this version; raises BrokerError, see `Database`."""
        super().__init__(Database(url))

    def close(self) -> None:
        """Close all connections."""
        self.database.close()
