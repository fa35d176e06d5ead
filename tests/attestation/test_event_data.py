"""Rules over boot events: a datum counts only where the event's digest is its hash; and separators that mislead."""

from __future__ import annotations

import hashlib
import struct
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from chrysalis.api.initdata import mrconfigid
from chrysalis.api.policy_events import EventRule, EventType
from chrysalis.attestation import event_data, eventlog, rules
from chrysalis.attestation.event_data import CODES
from chrysalis.attestation.eventlog import Event
from chrysalis.attestation.quote import parse, read
from chrysalis.attestation.reasons import AttestationError
from chrysalis.attestation.verdict import Verdict
from e2e.simtd import eventlog as boot
from e2e.simtd.pki import SimulatedPlatform

Appraise = Callable[..., Verdict]
Reasons = Callable[[Verdict], list[str]]
GUID = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
ALL = (True, True, True, True)


def sha(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()


def event(rtmr: int, kind: str, data: bytes, measured: bytes | None = None) -> Event:
    """An event that logs `data` and measures `measured` (the same where it is not given)."""
    return Event(rtmr + 1, CODES[EventType(kind)], {0xC: sha(data if measured is None else measured)}, data)


def variable(name: str, value: bytes, guid: str = GUID) -> bytes:
    return uuid.UUID(guid).bytes_le + struct.pack("<QQ", len(name), len(value)) + name.encode("utf-16-le") + value


def rule(rtmr: int, kind: str, **datum: Any) -> EventRule:
    return EventRule.model_validate({"register": rtmr, "type": kind, **datum})


def judged(given: list[EventRule], events: list[Event], replayed: tuple[bool, ...] = ALL) -> list[str]:
    return [reason.reason.value for reason in event_data.judge(given, events, replayed)]


CMDLINE = b"/vmlinuz root=/dev/vda1 ro"
GRUB = event(2, "EV_IPL", b"kernel_cmdline: " + CMDLINE + b"\0", CMDLINE)
LIE = event(2, "EV_IPL", b"kernel_cmdline: " + CMDLINE + b"\0", b"/vmlinuz root=/dev/vda1 rw init=/bin/sh")
SECURE_BOOT = event(0, "EV_EFI_VARIABLE_DRIVER_CONFIG", variable("SecureBoot", b"\1"))
SECURE_BOOT_OFF = event(0, "EV_EFI_VARIABLE_DRIVER_CONFIG", variable("SecureBoot", b"\0"))
SECURE_BOOT_LIE = event(0, "EV_EFI_VARIABLE_DRIVER_CONFIG", variable("SecureBoot", b"\1"), variable("SecureBoot", b"\0"))
ON: dict[str, Any] = {"variable": {"name": "SecureBoot", "value": "01"}}
TAGGED = struct.pack("<II", 0x8F3B22EC, 9) + b"root=/dev"
UTF16 = "quiet splash".encode("utf-16-le") + b"\0\0"

CASES: list[tuple[str, EventRule, list[Event], list[str]]] = [
    ("GRUB text without its prefix and NUL", rule(2, "EV_IPL", text=CMDLINE.decode()), [GRUB], []),
    ("the same text with its prefix", rule(2, "EV_IPL", text="kernel_cmdline: " + CMDLINE.decode()), [GRUB], []),
    ("a datum that was not measured", rule(2, "EV_IPL", text=CMDLINE.decode()), [LIE], ["EventDataUnproven"]),
    ("the truth behind the lie", rule(2, "EV_IPL", text="/vmlinuz root=/dev/vda1 rw init=/bin/sh"), [LIE], []),
    ("another text", rule(2, "EV_IPL", text="/vmlinuz"), [GRUB], ["EventLogRuleUnmet"]),
    ("another register", rule(1, "EV_IPL", text=CMDLINE.decode()), [GRUB], ["EventLogRuleUnmet"]),
    ("another type", rule(2, "EV_EFI_ACTION", text=CMDLINE.decode()), [GRUB], ["EventLogRuleUnmet"]),
    ("no events", rule(2, "EV_IPL", text="x"), [], ["EventLogRuleUnmet"]),
    ("a text in UTF-16", rule(2, "EV_IPL", text="quiet splash"), [event(2, "EV_IPL", UTF16)], []),
    ("a tagged text", rule(2, "EV_EVENT_TAG", text="root=/dev"), [event(2, "EV_EVENT_TAG", TAGGED, b"root=/dev")], []),
    (
        "a tagged text that was not measured",
        rule(2, "EV_EVENT_TAG", text="root=/dev"),
        [event(2, "EV_EVENT_TAG", TAGGED, b"x")],
        ["EventDataUnproven"],
    ),
    (
        "an EFI action",
        rule(1, "EV_EFI_ACTION", text="Exit Boot Services Invocation"),
        [event(1, "EV_EFI_ACTION", b"Exit Boot Services Invocation")],
        [],
    ),
    ("an action", rule(1, "EV_ACTION", text="Entering ROM"), [event(1, "EV_ACTION", b"Entering ROM")], []),
    ("a post code", rule(0, "EV_POST_CODE", text="ACPI DATA"), [event(0, "EV_POST_CODE", b"ACPI DATA")], []),
    (
        "a post code that is a label only",
        rule(0, "EV_POST_CODE", text="ACPI DATA"),
        [event(0, "EV_POST_CODE", b"ACPI DATA", b"tables")],
        ["EventDataUnproven"],
    ),
    ("a variable", rule(0, "EV_EFI_VARIABLE_DRIVER_CONFIG", **ON), [SECURE_BOOT], []),
    (
        "a variable by its value's hash",
        rule(0, "EV_EFI_VARIABLE_DRIVER_CONFIG", variable={"name": "SecureBoot", "valueSha384": sha(b"\1").hex()}),
        [SECURE_BOOT],
        [],
    ),
    (
        "a variable and its GUID",
        rule(0, "EV_EFI_VARIABLE_DRIVER_CONFIG", variable={"name": "SecureBoot", "guid": GUID.upper(), "value": "01"}),
        [SECURE_BOOT],
        [],
    ),
    (
        "another GUID",
        rule(0, "EV_EFI_VARIABLE_DRIVER_CONFIG", variable={"name": "SecureBoot", "guid": "0" * 8 + GUID[8:], "value": "01"}),
        [SECURE_BOOT],
        ["EventLogRuleUnmet"],
    ),
    ("another value", rule(0, "EV_EFI_VARIABLE_DRIVER_CONFIG", **ON), [SECURE_BOOT_OFF], ["EventLogRuleUnmet"]),
    ("a value that was not measured", rule(0, "EV_EFI_VARIABLE_DRIVER_CONFIG", **ON), [SECURE_BOOT_LIE], ["EventDataUnproven"]),
    ("both values", rule(0, "EV_EFI_VARIABLE_DRIVER_CONFIG", **ON), [SECURE_BOOT, SECURE_BOOT_OFF], ["EventLogRuleUnmet"]),
    (
        "an empty variable",
        rule(0, "EV_EFI_VARIABLE_DRIVER_CONFIG", variable={"name": "PK", "value": ""}),
        [event(0, "EV_EFI_VARIABLE_DRIVER_CONFIG", variable("PK", b""))],
        [],
    ),
    (
        "a digest",
        rule(1, "EV_EFI_BOOT_SERVICES_APPLICATION", sha384=sha(b"image").hex()),
        [event(1, "EV_EFI_BOOT_SERVICES_APPLICATION", b"path", b"image")],
        [],
    ),
    (
        "another digest",
        rule(1, "EV_EFI_BOOT_SERVICES_APPLICATION", sha384=sha(b"path").hex()),
        [event(1, "EV_EFI_BOOT_SERVICES_APPLICATION", b"path", b"image")],
        ["EventLogRuleUnmet"],
    ),
    ("closed, and nothing else", rule(2, "EV_IPL", text=CMDLINE.decode(), closed=True), [GRUB], []),
    (
        "closed, and something else",
        rule(2, "EV_IPL", text=CMDLINE.decode(), closed=True),
        [GRUB, event(2, "EV_IPL", b"grub_cmd: cat\0", b"cat")],
        ["EventNotAllowed"],
    ),
    ("open, and something else", rule(2, "EV_IPL", text=CMDLINE.decode()), [GRUB, event(2, "EV_IPL", b"grub_cmd: cat\0", b"cat")], []),
    (
        "closed, and something else under another type",
        rule(2, "EV_IPL", text=CMDLINE.decode(), closed=True),
        [GRUB, event(2, "EV_POST_CODE", b"grub_cmd: cat\0", b"cat")],
        ["EventNotAllowed"],
    ),
    (
        "closed, and something else under a type that does not exist",
        rule(2, "EV_IPL", text=CMDLINE.decode(), closed=True),
        [GRUB, Event(3, 0x7FFFFFFF, {0xC: sha(b"cat")}, b"")],
        ["EventNotAllowed"],
    ),
    ("closed, and a separator", rule(2, "EV_IPL", text=CMDLINE.decode(), closed=True), [GRUB, event(2, "EV_SEPARATOR", bytes(4))], []),
    (
        "closed, and something else as a separator",
        rule(2, "EV_IPL", text=CMDLINE.decode(), closed=True),
        [GRUB, event(2, "EV_SEPARATOR", bytes(4), b"cat")],
        ["EventNotAllowed"],
    ),
    (
        "closed, and what is not measured",
        rule(2, "EV_IPL", text=CMDLINE.decode(), closed=True),
        [GRUB, Event(3, eventlog.EV_NO_ACTION, {0xC: sha(b"cat")}, b"cat")],
        [],
    ),
    ("closed in another register", rule(2, "EV_IPL", text=CMDLINE.decode(), closed=True), [GRUB, event(1, "EV_IPL", b"cat")], []),
]


@pytest.mark.parametrize(("given_rule", "events", "expected"), [row[1:] for row in CASES], ids=[row[0] for row in CASES])
def test_a_rule(given_rule: EventRule, events: list[Event], expected: list[str]) -> None:
    assert judged([given_rule], events) == expected


def test_what_is_not_measured_proves_nothing() -> None:
    assert event_data.measured(event(2, "EV_IPL", b"cat")) == b"cat"
    assert event_data.measured(Event(3, eventlog.EV_NO_ACTION, {0xC: sha(b"cat")}, b"cat")) is None


def test_an_empty_list_denies() -> None:
    assert judged([], [GRUB]) == ["EventNotAllowed"]


def test_rules_close_a_type_together() -> None:
    one = rule(2, "EV_IPL", text="a", closed=True)
    two = rule(2, "EV_IPL", text="b")
    events = [event(2, "EV_IPL", b"grub_cmd: a\0", b"a"), event(2, "EV_IPL", b"grub_cmd: b\0", b"b")]
    assert judged([one, two], events) == []
    assert judged([one], events) == ["EventNotAllowed"]


def test_nothing_is_judged_where_nothing_is_proved() -> None:
    assert judged([rule(2, "EV_IPL", text="other", closed=True)], [GRUB], (True, True, False, True)) == []


WRONG_RULES: list[dict[str, Any]] = [
    {"register": 4, "type": "EV_IPL", "text": "x"},
    {"register": 2, "type": "EV_NO_ACTION", "text": "x"},
    {"register": 2, "type": "EV_IPL"},
    {"register": 2, "type": "EV_IPL", "text": "x", "sha384": "00" * 48},
    {"register": 2, "type": "EV_IPL", "text": ""},
    {"register": 2, "type": "EV_IPL", "sha384": "00" * 32},
    {"register": 2, "type": "EV_EFI_HANDOFF_TABLES2", "text": "x"},
    {"register": 2, "type": "EV_EFI_BOOT_SERVICES_APPLICATION", "text": "x"},
    {"register": 0, "type": "EV_IPL", "variable": {"name": "x", "value": ""}},
    {"register": 0, "type": "EV_EFI_VARIABLE_BOOT", "variable": {"name": "BootOrder", "value": "01"}},  # its digest leaves the name out
    {"register": 0, "type": "EV_EFI_VARIABLE_DRIVER_CONFIG", "variable": {"name": "x"}},
    {"register": 0, "type": "EV_EFI_VARIABLE_DRIVER_CONFIG", "variable": {"name": "x", "value": "0"}},
    {"register": 0, "type": "EV_EFI_VARIABLE_DRIVER_CONFIG", "variable": {"name": "x", "value": "", "valueSha384": "00" * 48}},
    {"register": 2, "type": "EV_IPL", "text": "x", "unknown": 1},
]


@pytest.mark.parametrize("document", WRONG_RULES)
def test_a_rule_that_could_prove_nothing_is_no_rule(document: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EventRule.model_validate(document)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"register": 2, "type": "EV_IPL", "text": "Simulated kernel command line, version 1"}, []),
        ({"register": 2, "type": "EV_IPL", "text": "Simulated kernel command line, version 2"}, ["EventLogRuleUnmet"]),
    ],
)
def test_rules_in_an_appraisal(
    judge: Appraise, reasons: Reasons, policy_document: dict[str, Any], change: dict[str, Any], expected: list[str]
) -> None:
    policy_document["eventLog"] = {"required": False, "rules": [change]}  # a rule makes the log required
    assert reasons(judge()) == expected
    assert reasons(judge(event_log=None)) == ["EventLogMissing"]
    policy_document["eventLog"] = {"rules": []}
    assert reasons(judge()) == ["EventNotAllowed"]


def log_of(events: list[Event]) -> bytes:
    spec = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, 1) + struct.pack("<HH", 0xC, 48) + b"\0"
    data = struct.pack("<II20sI", 1, 3, bytes(20), len(spec)) + spec
    for item in events:
        data += struct.pack("<IIIH", item.register, item.type, 1, 0xC) + item.digests[0xC] + struct.pack("<I", len(item.data)) + item.data
    return data


SEPARATOR = [event(index, "EV_SEPARATOR", bytes(4)) for index in range(4)]
STEP = [event(index, "EV_EFI_ACTION", b"step") for index in range(4)]
SEPARATORS: list[tuple[str, list[Event], bool]] = [
    ("one in each register", [*STEP, *SEPARATOR], True),
    ("of all ones", [event(1, "EV_SEPARATOR", b"\xff" * 4)], True),
    ("two in RTMR0, apart, as some firmware does", [SEPARATOR[0], STEP[0], SEPARATOR[0]], True),
    ("two in RTMR0, and one of the boot in RTMR1, too", [SEPARATOR[0], STEP[0], SEPARATOR[1], SEPARATOR[0]], False),
    ("one of the boot in RTMR1 behind two in RTMR0", [SEPARATOR[0], STEP[0], SEPARATOR[0], STEP[0], SEPARATOR[1]], False),
    ("two in RTMR0, one in RTMR2", [SEPARATOR[0], STEP[0], SEPARATOR[0], SEPARATOR[2]], True),
    ("two in RTMR0, together", [STEP[0], SEPARATOR[0], SEPARATOR[0]], False),
    ("two in RTMR0, with another register's event between", [SEPARATOR[0], STEP[1], SEPARATOR[0]], False),
    ("three in RTMR0", [SEPARATOR[0], STEP[0], SEPARATOR[0], STEP[0], SEPARATOR[0]], False),
    ("two in RTMR1", [SEPARATOR[1], STEP[1], SEPARATOR[1]], False),
    ("two in RTMR2", [SEPARATOR[2], STEP[2], SEPARATOR[2]], False),
    ("two in RTMR3", [SEPARATOR[3], SEPARATOR[3]], False),
    ("an error", [event(1, "EV_SEPARATOR", b"\1\0\0\0")], False),
    ("another length", [event(1, "EV_SEPARATOR", b"WAS something else")], False),
    ("another event under its name", [event(1, "EV_SEPARATOR", bytes(4), b"something else")], False),
]


@pytest.mark.parametrize(("events", "sound"), [row[1:] for row in SEPARATORS], ids=[row[0] for row in SEPARATORS])
def test_separators(
    judge: Appraise,
    reasons: Reasons,
    platform: SimulatedPlatform,
    policy_document: dict[str, Any],
    initdata: bytes,
    events: list[Event],
    sound: bool,
) -> None:
    log = log_of(events)
    quote = platform.quote(bytes(range(64)), mrconfigid=mrconfigid(initdata), rtmrs=eventlog.replay(eventlog.parse(log)))
    for index in range(4):
        policy_document["tdx"]["measurements"][0][f"rtmr{index}"] = "Any"
    assert reasons(judge(quote=quote, event_log=log)) == ([] if sound else ["EventLogSeparatorInvalid"])


def test_a_reordered_log_does_not_replay(judge: Appraise, reasons: Reasons) -> None:
    events = eventlog.parse(boot.EVENT_LOG)
    assert judge(event_log=log_of(events)).accepted
    swapped = [events[1], events[0], *events[2:]]
    assert reasons(judge(event_log=log_of(swapped))) == ["EventLogMismatch"]
    assert reasons(judge(event_log=log_of(events[:-1]))) == ["EventLogMismatch"]
    assert reasons(judge(event_log=log_of([*events, events[-1]]))) == ["EventLogMismatch"]


@pytest.mark.parametrize("cut", [1, 7, 100])
def test_a_truncated_log(judge: Appraise, reasons: Reasons, cut: int) -> None:
    log = boot.EVENT_LOG.rstrip(b"\xff")
    assert judge(event_log=log).accepted
    assert reasons(judge(event_log=log[:-cut])) == ["EventLogMalformed"]


def test_an_oversized_log(judge: Appraise, reasons: Reasons) -> None:
    room = eventlog.MAX_LOG_BYTES - len(boot.EVENT_LOG)
    assert judge(event_log=boot.EVENT_LOG + b"\xff" * room).accepted
    assert reasons(judge(event_log=boot.EVENT_LOG + b"\xff" * (room + 1))) == ["EventLogMalformed"]


def test_the_acpi_table_is_not_the_log() -> None:
    with pytest.raises(AttestationError, match="ACPI table"):
        eventlog.parse(b"CCEL8\0\0\0" + bytes(48))
    with pytest.raises(AttestationError, match="JSON"):
        eventlog.parse(b'[{"imr":0}]')


@pytest.mark.vectors
def test_rules_over_a_real_boot(vectors: Path) -> None:
    """A real log whose digests are mostly not of its data: what is measured is proved, what is only said is not."""
    log = (vectors / "go-tdx-guest/ccel_data.dat").read_bytes()
    quote = parse(read((vectors / "go-tdx-guest/cos-113-tdx-quote.dat").read_bytes()))
    events = eventlog.parse(log)
    assert len(events) == 43
    assert sum(sha(item.data) == item.digests[0xC] for item in events) == 13
    command = events[40].data.decode().rstrip("\0").removeprefix("kernel_cmdline: ")
    good = [
        rule(2, "EV_IPL", text=command),
        rule(2, "EV_IPL", text="set default=2"),
        rule(0, "EV_EFI_VARIABLE_DRIVER_CONFIG", variable={"name": "SecureBoot", "value": event_value(events, "SecureBoot")}),
        rule(1, "EV_EFI_ACTION", text="Exit Boot Services Returned with Success", closed=False),
    ]
    spec = rules.EventLogRules(required=True, rules=good)
    assert rules.event_log(spec, log, quote) == []
    for bad, reason in (
        (rule(2, "EV_IPL", text="MokList"), "EventDataUnproven"),  # shim measures the list and logs its name
        (rule(2, "EV_IPL", text="/syslinux/vmlinuz.A"), "EventDataUnproven"),  # a file's digest beside its path
        (rule(2, "EV_IPL", text="set default=3"), "EventLogRuleUnmet"),
    ):
        found = rules.event_log(rules.EventLogRules(rules=[*good, bad]), log, quote)
        assert [item.reason for item in found] == [reason]


def event_value(events: list[Event], name: str) -> str:
    return next(read_.value.hex() for item in events if (read_ := event_data.variable(item.data)) is not None and read_.name == name)


@given(st.binary(max_size=300), st.sampled_from(sorted(CODES.values())))
def test_any_datum_is_read(data: bytes, kind: int) -> None:
    item = Event(1, kind, {0xC: sha(data)}, data)
    event_data.variable(data)
    event_data.texts(item)
    assert event_data.measured(item) in (data, None)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(list(EventType)), st.binary(max_size=40)), max_size=12))
def test_a_log_that_we_write_is_read_back(steps: list[tuple[int, EventType, bytes]]) -> None:
    events = [event(index, kind, data) for index, kind, data in steps]
    again = eventlog.parse(log_of(events) + b"\xff" * 100)
    assert again == events
    registers = [bytes(48)] * 4
    for item in events:
        registers[item.register - 1] = sha(registers[item.register - 1] + item.digests[0xC])
    assert list(eventlog.replay(again)) == registers


MANY_EVENTS, MANY_RULES = 4000, 64
"""As many as a log and a policy may have, or nearly."""


@pytest.mark.parametrize("value", ["01", "ee"])
@pytest.mark.parametrize("kind", ["value", "valueSha384"])
def test_many_rules_over_many_events_read_each_event_once_and_say_one_thing_each(
    monkeypatch: pytest.MonkeyPatch, kind: str, value: str
) -> None:
    """Whoever writes both the policy and the log wants each rule to go through every event, and a reason for each pair."""
    events = [event(0, "EV_EFI_VARIABLE_DRIVER_CONFIG", variable("SecureBoot", number.to_bytes(2, "big"))) for number in range(MANY_EVENTS)]
    events.append(SECURE_BOOT)
    wanted = value if kind == "value" else sha(bytes.fromhex(value)).hex()
    given = [rule(0, "EV_EFI_VARIABLE_DRIVER_CONFIG", variable={"name": "SecureBoot", kind: wanted})] * MANY_RULES
    read: list[bytes] = []
    real = event_data.variable
    monkeypatch.setattr(event_data, "variable", lambda data: read.append(data) or real(data))
    found = event_data.judge(given, events, ALL)
    assert len(read) <= len(events)
    assert len(found) == MANY_RULES
    words = "event 0, 1, 2, 3, 4, 5, 6, 7 gives the variable another value" if value == "01" else "no such event was measured"
    assert {reason.message.partition(": ")[2] for reason in found} == {words}


def test_many_texts_are_read_once_too(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [event(2, "EV_IPL", b"text %d" % number) for number in range(MANY_EVENTS)]
    read: list[Event] = []
    real = event_data.texts
    monkeypatch.setattr(event_data, "texts", lambda one: read.append(one) or real(one))
    given = [rule(2, "EV_IPL", text=f"another {number}") for number in range(MANY_RULES)]
    assert judged(given, events) == ["EventLogRuleUnmet"] * MANY_RULES
    assert len(read) == MANY_EVENTS
