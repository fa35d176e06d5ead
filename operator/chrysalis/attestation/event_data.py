"""What a boot event's datum proves: nothing, unless the event's digest is the hash of that datum.

The bytes that firmware and loaders hash are often not the bytes that they log: GRUB hashes a command without the prefix
and the NUL that it logs, a boot variable is hashed without its name, and an image's digest is not in the log at all.  For
each type of event that can be recomputed, `measured` says which bytes its digest is of.  Sources: TCG PC Client Platform
Firmware Profile, section 10.4; UEFI 2.10, section 38.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice

from chrysalis.api.policy_events import EventRule, EventType, VariableRule
from chrysalis.attestation.eventlog import EV_NO_ACTION, SHA384, Event, is_sound_separator
from chrysalis.attestation.reasons import AttestationReason
from chrysalis.attestation.verdict import Reason

CODES: dict[EventType, int] = {
    EventType.EV_POST_CODE: 0x01,
    EventType.EV_SEPARATOR: 0x04,
    EventType.EV_ACTION: 0x05,
    EventType.EV_EVENT_TAG: 0x06,
    EventType.EV_PLATFORM_CONFIG_FLAGS: 0x0A,
    EventType.EV_IPL: 0x0D,
    EventType.EV_EFI_VARIABLE_DRIVER_CONFIG: 0x80000001,
    EventType.EV_EFI_VARIABLE_BOOT: 0x80000002,
    EventType.EV_EFI_BOOT_SERVICES_APPLICATION: 0x80000003,
    EventType.EV_EFI_BOOT_SERVICES_DRIVER: 0x80000004,
    EventType.EV_EFI_GPT_EVENT: 0x80000006,
    EventType.EV_EFI_ACTION: 0x80000007,
    EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB: 0x80000008,
    EventType.EV_EFI_HANDOFF_TABLES: 0x80000009,
    EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB2: 0x8000000A,
    EventType.EV_EFI_HANDOFF_TABLES2: 0x8000000B,
    EventType.EV_EFI_VARIABLE_BOOT2: 0x8000000C,
    EventType.EV_EFI_VARIABLE_AUTHORITY: 0x800000E0,
}
NAMES: dict[int, str] = {0x03: "EV_NO_ACTION", **{code: name.value for name, code in CODES.items()}}
PREFIXES = (b"grub_cmd: ", b"kernel_cmdline: ", b"module_cmdline: ")
"""What GRUB logs before the text that it measures."""
MAX_VARIABLE_NAME = 1024
_EV_EVENT_TAG = CODES[EventType.EV_EVENT_TAG]
_EV_IPL = CODES[EventType.EV_IPL]
_EV_VARIABLE_BOOT = CODES[EventType.EV_EFI_VARIABLE_BOOT]
_UNMEASURED = {CODES[name] for name in (EventType.EV_EFI_HANDOFF_TABLES, EventType.EV_EFI_HANDOFF_TABLES2)}
"""Their data are pointers; a digest that happens to be of them proves nothing."""
_R = AttestationReason


@dataclass(frozen=True)
class Variable:
    """A UEFI variable as EV_EFI_VARIABLE_* events log it (UEFI_VARIABLE_DATA)."""

    guid: str  # lower-case text form
    name: str
    value: bytes


def variable(data: bytes) -> Variable | None:
    """Read UEFI_VARIABLE_DATA; None unless every length fits exactly."""
    if len(data) < 32:
        return None
    name_length, value_length = struct.unpack_from("<QQ", data, 16)
    end = 32 + 2 * name_length
    if name_length > MAX_VARIABLE_NAME or len(data) != end + value_length:
        return None
    try:
        name = data[32:end].decode("utf-16-le")
    except UnicodeDecodeError:
        return None
    return Variable(str(uuid.UUID(bytes_le=data[:16])), name, data[end:])


def candidates(event: Event) -> list[bytes]:
    """The byte strings that an event of this type may have hashed, as far as they can be made from its datum."""
    data = event.data
    if event.type in _UNMEASURED or event.type == EV_NO_ACTION:
        return []
    found = [data]
    if event.type == _EV_IPL:
        text = data[:-1] if data.endswith(b"\0") else data
        found.append(text)
        found += [text[len(prefix) :] for prefix in PREFIXES if text.startswith(prefix)]
    elif event.type == _EV_EVENT_TAG and len(data) >= 8 and struct.unpack_from("<I", data, 4)[0] == len(data) - 8:
        found.append(data[8:])
    elif event.type == _EV_VARIABLE_BOOT and (read := variable(data)) is not None:
        found.append(read.value)
    return found


def measured(event: Event) -> bytes | None:
    """The bytes whose SHA-384 is the event's digest, which are thereby proved by the register; None where none is known."""
    digest = event.digests.get(SHA384)
    return next((data for data in candidates(event) if hashlib.sha384(data).digest() == digest), None)


def texts(event: Event) -> set[str]:
    """What an event says, proved or not: its text with and without a loader's prefix."""
    found = set()
    for data in candidates(event):
        found.add(_text(data))
        if data.endswith(b"\0\0") and len(data) % 2 == 0:  # UEFI programs log UTF-16
            found.add(data.decode("utf-16-le", "replace").rstrip("\0"))
    return found


@lru_cache(maxsize=256)
def text_digests(text: str) -> frozenset[bytes]:
    """The SHA-384 digests that an event has which measures this text: in UTF-8 with or without NUL, or in UTF-16 with NUL."""
    forms = {form for plain in _plain(text) for form in (plain.encode(), plain.encode() + b"\0", plain.encode("utf-16-le") + b"\0\0")}
    return frozenset(hashlib.sha384(form).digest() for form in forms)


def judge(rules: Sequence[EventRule], events: Sequence[Event], replayed: Sequence[bool]) -> list[Reason]:
    """Judge a log under a policy's rules: each rule is met by an event whose digest proves it, closed registers hold nothing else.

    No register measures an event's type: whoever writes the log gives an event another one at will.  So a rule is met by its
    type only, and a closed register lets no event pass for its type, sound separators excepted: they say nothing.
    replayed: for each RTMR, whether the log replays to the quote's value.  Where it does not, its events are not judged:
    nothing is proved there, and the mismatch itself refuses.
    """
    if not rules:
        return [Reason.of(_R.EVENT_NOT_ALLOWED, "the policy allows no events (its list of rules is empty)")]
    places: dict[tuple[int, int], list[_Entry]] = {}
    for position, event in enumerate(events):
        if event.type != EV_NO_ACTION:
            places.setdefault((event.register - 1, event.type), []).append(_Entry(position, event))
    found: list[Reason] = []
    listed: dict[int, set[int]] = {}
    for number, rule in enumerate(rules):
        if not replayed[rule.register_index]:
            continue
        entries = places.get((rule.register_index, CODES[rule.type]), [])
        met = {entry.position for entry in _proving(rule, entries)}
        listed.setdefault(rule.register_index, set()).update(met)
        if not met:
            found.append(_unmet(number, rule, entries))
        elif rule.variable is not None:  # the same variable with another value would contradict the rule
            named = {entry.position for entry in entries if entry.is_of(rule.variable)}
            if named - met:
                found.append(_contradicted(number, sorted(named - met), rule))
    for register in sorted({rule.register_index for rule in rules if rule.closed and replayed[rule.register_index]}):
        extra = [
            f"{position} ({NAMES.get(event.type, f'{event.type:#010x}')})"
            for position, event in enumerate(events)
            if event.register - 1 == register and event.type != EV_NO_ACTION
            if position not in listed[register] and not is_sound_separator(event)
        ]
        if extra:
            message = f"RTMR{register} is closed and holds events that no rule lists: {', '.join(extra[:8])}"
            found.append(Reason.of(_R.EVENT_NOT_ALLOWED, message))
    return found


@dataclass(frozen=True)
class _Entry:
    """An event and what is read out of it, once: there may be 4,096 events and 64 rules, and whoever wrote both may want it slow."""

    position: int
    event: Event

    @cached_property
    def variable(self) -> Variable | None:
        return variable(self.event.data)

    @cached_property
    def value_sha384(self) -> bytes:
        return b"" if self.variable is None else hashlib.sha384(self.variable.value).digest()

    @cached_property
    def is_proved(self) -> bool:
        """Whether the digest is of the whole datum."""
        return measured(self.event) == self.event.data

    @cached_property
    def texts(self) -> set[str]:
        return texts(self.event)

    def is_of(self, rule: VariableRule) -> bool:
        """Whether this is the rule's variable, whatever its value."""
        found = self.variable
        return found is not None and found.name == rule.name and (rule.guid is None or found.guid == rule.guid.lower())


def _proving(rule: EventRule, entries: Sequence[_Entry]) -> list[_Entry]:
    """The events that prove a rule's datum."""
    if rule.sha384 is not None:
        digest = bytes.fromhex(rule.sha384)
        return [entry for entry in entries if entry.event.digests.get(SHA384) == digest]
    if rule.text is not None:
        digests = text_digests(rule.text)
        return [entry for entry in entries if entry.event.digests.get(SHA384) in digests]
    return [entry for entry in _claiming(rule, entries) if entry.is_proved]


def _claiming(rule: EventRule, entries: Sequence[_Entry]) -> list[_Entry]:
    """The events whose datum in the log is the rule's, whatever their digests say."""
    if rule.text is not None:
        plain = _plain(rule.text)
        return [entry for entry in entries if not plain.isdisjoint(entry.texts)]
    wanted = rule.variable
    if wanted is None:
        return []
    named = [entry for entry in entries if entry.is_of(wanted)]
    if wanted.value is not None:
        value = bytes.fromhex(wanted.value)
        return [entry for entry in named if entry.variable is not None and entry.variable.value == value]
    digest = bytes.fromhex(wanted.value_sha384 or "")
    return [entry for entry in named if entry.value_sha384 == digest]


def _plain(text: str) -> set[str]:
    """A rule's text, and the same without a loader's prefix, which is not measured."""
    return {text, *(text[len(prefix) :] for prefix in (p.decode() for p in PREFIXES) if text.startswith(prefix))}


def _unmet(number: int, rule: EventRule, entries: Sequence[_Entry]) -> Reason:
    claiming = _claiming(rule, entries)
    if claiming:
        said = f"the log says so in event {_listed(entry.position for entry in claiming)}"
        message = f"{_place(number, rule)}: {said}, but that event's digest is not the hash of this datum"
        return Reason.of(_R.EVENT_DATA_UNPROVEN, message)
    words = f"{len(entries)} events of this type in this register"
    return Reason.of(_R.EVENT_LOG_RULE_UNMET, f"{_place(number, rule)}: no such event was measured", words)


def _contradicted(number: int, positions: Sequence[int], rule: EventRule) -> Reason:
    message = f"{_place(number, rule)}: event {_listed(positions)} gives the variable another value"
    return Reason.of(_R.EVENT_LOG_RULE_UNMET, message)


def _place(number: int, rule: EventRule) -> str:
    return f"rule {number} of eventLog.rules ({rule.type} in RTMR{rule.register_index})"


def _listed(positions: Iterable[int]) -> str:
    return ", ".join(str(position) for position in islice(positions, 8))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace").rstrip("\0")
