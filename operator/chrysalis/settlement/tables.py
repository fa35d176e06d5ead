"""The ledger's tables as SQLAlchemy Core sees them; their constraints stand in the migrations, which make them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, String, Table

metadata = MetaData()

account = Table(
    "account",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("set_name", String),
    Column("fee_bps", Integer),
    Column("holder", String),
)
client_keys = Table(
    "client_keys",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kid", String),
    Column("public_key", String),
    Column("cap", BigInteger),
    Column("since", BigInteger),
    Column("until", BigInteger),
)
workers = Table(
    "workers",
    metadata,
    Column("wrk", String, primary_key=True),
    Column("receipt_key", String),
    Column("wallet", String),
    Column("certificate", String),
    Column("name", String),
    Column("registered_at", BigInteger),
    Column("head_seq", BigInteger),
    Column("head_hash", String),
    Column("closed_reason", String),
    Column("closed_at", BigInteger),
)
offers = Table("offers", metadata, Column("hash", String, primary_key=True), Column("wrk", String), Column("token", String))
receipts = Table(
    "receipts",
    metadata,
    Column("position", BigInteger, primary_key=True),
    Column("hash", String),
    Column("wrk", String),
    Column("seq", BigInteger),
    Column("token", String),
    Column("offer", String),
    Column("wallet", String),
    Column("kid", String),
    Column("day", Integer),
    Column("amt", BigInteger),
    Column("fee", BigInteger),
    Column("net", BigInteger),
    Column("refusal", String),
    Column("received_at", BigInteger),
)
spent_tickets = Table(
    "spent_tickets",
    metadata,
    Column("kid", String, primary_key=True),
    Column("res", String, primary_key=True),
    Column("nonce", String, primary_key=True),
    Column("receipt", String),
)
forks = Table(
    "forks",
    metadata,
    Column("hash", String, primary_key=True),
    Column("wrk", String),
    Column("seq", BigInteger),
    Column("token", String),
    Column("received_at", BigInteger),
)
epochs = Table(
    "epochs",
    metadata,
    Column("epoch", BigInteger, primary_key=True),
    Column("prev", LargeBinary),
    Column("hash", LargeBinary),
    Column("root", LargeBinary),
    Column("earned", BigInteger),
    Column("fees", BigInteger),
    Column("log_root", LargeBinary),
    Column("log_size", BigInteger),
    Column("state", String),
    Column("frozen_at", BigInteger),
    Column("committed_at", BigInteger),
)
bodies = Table(
    "bodies",
    metadata,
    Column("epoch", BigInteger),
    Column("valid_until", BigInteger),
    Column("signer_key", String),
    Column("body", LargeBinary),
    Column("signed_at", BigInteger),
)
losses = Table("losses", metadata, Column("epoch", BigInteger, primary_key=True), Column("earned", BigInteger), Column("fees", BigInteger))
