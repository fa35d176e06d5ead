"""The table of OCSP answers, on both databases: made by a migration of its own, shared, and never going back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, inspect

from chrysalis.broker import database, ocsp_store
from chrysalis.broker.ocsp_store import NewAnswer, OcspKept, OcspState
from chrysalis.broker.store import Cause, Store

ONE, OTHER = "1" * 64, "2" * 64


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url)
    store.note_ocsp([(ONE, b"certificate", b"issuer"), (OTHER, b"c", b"i")], now=100)
    yield store
    store.close()


def answer(
    digest: str = ONE, state: OcspState = OcspState.GOOD, this_update: int = 100, body: bytes = b"answer", after: int = 150
) -> NewAnswer:
    return NewAnswer(digest, body, state, this_update, this_update + 100, after)


def causes(store: Store) -> list[Cause]:
    found = []
    while (sweep := store.hold_sweep("me", 0, 10)) is not None:
        found.append(sweep.cause)
        store.finish_sweep(sweep, "me")
    return found


def test_a_database_of_the_first_version_is_migrated(database_url: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    engine = create_engine(database_url)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        assert "ocsp_answers" not in inspect(connection).get_table_names()
    engine.dispose()
    store = Store(database_url)
    store.note_ocsp([(ONE, b"certificate", b"issuer")], now=1)
    assert store.ocsp_rows([ONE])[ONE].state is OcspState.MISSING
    store.close()


def test_an_answer_is_kept_and_another_replica_has_it(store: Store, database_url: str) -> None:
    assert store.keep_ocsp([answer()], now=100) == {ONE: OcspKept.STORED}
    replica = Store(database_url)
    row = replica.ocsp_rows([ONE, "3" * 64])[ONE]
    replica.close()
    assert (row.certificate, row.issuer, row.body, row.state) == (b"certificate", b"issuer", b"answer", OcspState.GOOD)
    assert (row.this_update, row.ends_at, row.next_attempt_at, row.used_at) == (100, 200, 150, 100)


def test_an_older_answer_changes_nothing(store: Store) -> None:
    store.keep_ocsp([answer(state=OcspState.REVOKED)], now=100)
    assert store.keep_ocsp([answer(this_update=99)], now=101) == {ONE: OcspKept.ROLLED_BACK}
    assert store.keep_ocsp([answer(this_update=100)], now=101) == {ONE: OcspKept.ROLLED_BACK}
    assert store.ocsp_rows([ONE])[ONE].state is OcspState.REVOKED
    assert store.keep_ocsp([answer(this_update=101)], now=102) == {ONE: OcspKept.STORED}  # the twin
    assert store.ocsp_rows([ONE])[ONE].state is OcspState.GOOD


def test_a_revocation_has_everything_judged_again_once(store: Store) -> None:
    store.keep_ocsp([answer(), answer(OTHER)], now=100)
    store.keep_ocsp([answer(this_update=101)], now=101)
    assert causes(store) == []
    shared = store.inputs().shared
    store.keep_ocsp([answer(state=OcspState.REVOKED, this_update=102)], now=102)
    assert store.inputs().shared > shared  # what is being judged at the moment is judged once more
    store.keep_ocsp([answer(state=OcspState.REVOKED, this_update=103)], now=103)
    assert causes(store) == [Cause.GPU_CERTIFICATE_REVOKED]


def test_what_is_due(store: Store) -> None:
    store.keep_ocsp([answer(after=150), answer(OTHER, after=160)], now=100)
    assert [row.digest for row in store.ocsp_due(149, 10)] == []
    assert [row.digest for row in store.ocsp_due(150, 10)] == [ONE]
    store.ocsp_failed(ONE, 170)
    assert [row.digest for row in store.ocsp_due(160, 10)] == [OTHER]
    assert store.ocsp_rows([ONE])[ONE].failures == 1
    assert len(store.ocsp_due(170, 1)) == 1


def test_what_no_responder_ever_answered_is_not_asked_for_in_the_background(store: Store) -> None:
    assert store.ocsp_due(1000, 10) == []
    store.keep_ocsp([answer(OTHER)], now=100)
    assert [row.digest for row in store.ocsp_due(1000, 10)] == [OTHER]  # the twin


def test_only_so_many_without_an_answer_are_held(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocsp_store, "MAX_MISSING", 2)
    store.keep_ocsp([answer()], now=100)
    store.note_ocsp([(f"{number:064x}", b"c", b"i") for number in range(2)], now=101)
    assert store.forget_ocsp(0) == 1  # OTHER, which was needed before them
    assert set(store.ocsp_rows([ONE, OTHER, *(f"{number:064x}" for number in range(2))])) == {ONE, f"{0:064x}", f"{1:064x}"}
    assert store.forget_ocsp(0) == 0


def test_what_nobody_needs_is_forgotten(store: Store) -> None:
    store.note_ocsp([(OTHER, b"c", b"i")], now=200)
    assert store.forget_ocsp(100) == 0
    assert store.forget_ocsp(200) == 1
    assert list(store.ocsp_rows([ONE, OTHER])) == [OTHER]
    assert store.keep_ocsp([answer()], now=201) == {}
