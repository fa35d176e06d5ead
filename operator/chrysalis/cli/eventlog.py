"""`chrysalis eventlog replay FILE`: what a boot event log adds up to, and what of it is proved."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from chrysalis.attestation import event_data, eventlog, eventlog_file, eventlog_list
from chrysalis.attestation import quote as quotes
from chrysalis.attestation.eventlog import RTMRS, SHA384, Event
from chrysalis.attestation.eventlog_list import Listed
from chrysalis.attestation.quote_file import MAX_REPORT_BYTES
from chrysalis.attestation.reasons import AttestationError, AttestationReason
from chrysalis.attestation.verdict import Reason
from chrysalis.cli import files, printing

MAX_SHOWN_TEXT = 400
MAX_LINE_TEXT = 100
NOT_COMPARED = "its separators are sound; compared with nothing: no --rtmr and no --quote was given"
EXIT_NO = 1


class Register(click.ParamType[tuple[int, str]]):
    """INDEX=HEX: what an RTMR should be."""

    name = "0..3=HEX"

    def convert(self, value: str | tuple[int, str], param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, str]:
        if isinstance(value, tuple):
            return value
        index, equals, digits = value.partition("=")
        digits = digits.strip().lower().removeprefix("0x")
        try:
            position, size = int(index.strip().lower().removeprefix("rtmr")), len(bytes.fromhex(digits))
        except ValueError:
            self.fail(f"{value!r} is not INDEX=HEX (for example 0={'00' * 48})", param, ctx)
        if not equals or not 0 <= position < RTMRS or size != 48 or len(digits) != 96:
            self.fail("an RTMR has an index from 0 to 3 and 48 bytes, 96 hexadecimal digits", param, ctx)
        return position, digits


@click.group("eventlog")
def command() -> None:
    """Boot event logs (CCEL)."""


@command.command("replay")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--rtmr", "expected", type=Register(), multiple=True, help="What a register should be; repeat for several.")
@click.option("--quote", type=click.Path(path_type=Path), help="Compare with all four registers of this TDX quote.")
@click.option(
    "--algorithm", type=click.Choice(["sha384"], case_sensitive=False), default="sha384", show_default=True, help="RTMRs have no other."
)
@click.option("--events", "events_too", is_flag=True, help="Print every event, too, and what of its datum is proved.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def replay(file: Path, expected: tuple[tuple[int, str], ...], quote: Path | None, algorithm: str, events_too: bool, output: str) -> int:
    """Replay a raw event log (TCG2 crypto-agile, as /sys/firmware/acpi/tables/data/CCEL holds it) and print its RTMRs.

    Hexadecimal or base64 text of one is read, too, also in JSON, and so is the list of events that dstack's guests keep (imr,
    event_type, digest, event, event_payload); - reads standard input.

    A log that replays proves its digests and their order; of an event's datum only what is marked as proved.  Exit code:
    0 all registers are as given (or none was given), 1 one differs or the log's separators are unsound, 2 unreadable input.
    """
    wanted = _wanted(expected, quote)
    events, listed = _read(files.read(file, eventlog_file.MAX_FILE_BYTES))
    registers = [value.hex() for value in eventlog.replay(events)]
    reasons = []
    wrong = [f"rtmr{index}" for index, value in sorted(wanted.items()) if registers[index] != value]
    if wrong:
        reasons.append(Reason.of(AttestationReason.EVENT_LOG_MISMATCH, f"the event log does not replay to the given {', '.join(wrong)}"))
    try:
        eventlog.separators(events)
    except AttestationError as error:
        reasons.append(Reason.from_error(error))
    document = _document(events, registers, wanted, reasons, algorithm)
    if listed is not None:
        for number, name in listed.names.items():
            shown = document["log"][number]
            shown |= {"event": name, "payload": events[number].data[:MAX_SHOWN_TEXT].hex()}
            shown["proved"] = shown["proved"] or number in listed.proved
    if output == "json":
        click.echo(json.dumps(document, indent=2))
    else:
        printing.lines(_lines(events, registers, wanted, reasons, sum(shown["proved"] for shown in document["log"])))
        if events_too:
            printing.lines(["", *map(_event_line, document["log"])])
    return EXIT_NO if reasons else 0


def _read(data: bytes) -> tuple[list[Event], Listed | None]:
    """The events of a file, and what a list of them says besides."""
    try:
        return eventlog.parse(eventlog_file.read(data)), None
    except eventlog_file.NoLogError:
        listed = eventlog_list.read(data)
        if listed is None:
            raise
        return listed.events, listed


def _wanted(expected: Sequence[tuple[int, str]], quote: Path | None) -> dict[int, str]:
    wanted: dict[int, str] = {}
    given = list(expected)
    if quote is not None:
        rtmrs = quotes.parse(quotes.read(files.read(quote, MAX_REPORT_BYTES))).rtmrs
        given += [(index, value.hex()) for index, value in enumerate(rtmrs)]
    for index, value in given:
        if wanted.setdefault(index, value) != value:
            raise click.UsageError(f"rtmr{index} is given twice, with different values")
    return wanted


def _document(
    events: Sequence[Event], registers: Sequence[str], wanted: dict[int, str], reasons: Sequence[Reason], algorithm: str
) -> dict[str, Any]:
    return {
        "schemaVersion": "chrysalis/v1",
        "verdict": "Refused" if reasons else "Accepted",
        "reasons": [reason.model_dump(mode="json", by_alias=True) for reason in reasons],
        "algorithm": algorithm.lower(),
        "events": len(events),
        "rtmrs": list(registers),
        "matches": [registers[index] == wanted[index] if index in wanted else None for index in range(RTMRS)],
        "notes": [] if wanted else [NOT_COMPARED],
        "log": [_event(number, event) for number, event in enumerate(events)],
    }


def _event(number: int, event: Event) -> dict[str, Any]:
    proved = event_data.measured(event)
    shown: dict[str, Any] = {
        "number": number,
        "rtmr": event.register - 1 if 1 <= event.register <= RTMRS else -1,
        "type": event_data.NAMES.get(event.type, f"{event.type:#010x}"),
        "digest": event.digests.get(SHA384, b"").hex(),
        "dataBytes": len(event.data),
        "proved": proved is not None,
    }
    variable = event_data.variable(event.data) if shown["type"].startswith("EV_EFI_VARIABLE") else None
    if variable is not None:
        shown["variable"] = {"name": variable.name, "guid": variable.guid, "value": variable.value[:MAX_SHOWN_TEXT].hex()}
        shown["variable"]["proved"] = "NameAndValue" if proved == event.data else "Value" if proved is not None else "Nothing"
    elif (text := _printable(event.data)) is not None:
        shown["text"] = text
    return shown


def _printable(data: bytes) -> str | None:
    try:
        text = data.decode().rstrip("\0")
    except UnicodeDecodeError:
        return None
    return text[:MAX_SHOWN_TEXT] if text and text.isprintable() else None


def _lines(events: Sequence[Event], registers: Sequence[str], wanted: dict[int, str], reasons: Sequence[Reason], proved: int) -> list[str]:
    if reasons:
        word, tone, said = "Refused", "red", "see the reasons"
    else:
        compared = ", ".join(f"rtmr{index}" for index in sorted(wanted))
        word, tone, said = "Accepted", "green", f"{compared} as given" if compared else NOT_COMPARED
    lines = [click.style(word, fg=tone, bold=True) + f"  ({said})", ""]
    for reason in reasons:
        lines += [f"  {click.style(reason.reason, bold=True)}: {reason.message}", f"    what to do: {reason.remedy}"]
        if reason.detail:
            lines.append(f"    detail: {reason.detail}")
    if reasons:
        lines.append("")
    lines.append(f"  {len(events)} events; the data of {proved} are proved by their digests")
    for index, value in enumerate(registers):
        count = sum(event.register == index + 1 and event.type != eventlog.EV_NO_ACTION for event in events)
        given = "" if index not in wanted else "  as given" if wanted[index] == value else f"  DIFFERS from {wanted[index]}"
        lines.append(f"  rtmr{index}  {value}  {count} events{given}")
    return lines


def _event_line(event: dict[str, Any]) -> str:
    """One event: number, register, type, digest, and its datum with what is proved of it."""
    variable = event.get("variable")
    if variable is not None:
        proof = {"NameAndValue": "proved", "Value": "value proved, name not"}.get(variable["proved"], "not proved")
        datum = f"{proof}: {variable['name']} {variable['guid']} = {_shortened(variable['value'])}"
    else:
        proof = "proved" if event["proved"] else "not proved"
        said = event.get("text", event.get("payload", ""))
        said = f"{event['event']} = {said}" if "event" in event else said
        datum = f"{proof}: {_shortened(said)}" if said else proof
    return f"  {event['number']:>4}  {_register(event)}  {event['type']:<33}  {event['digest']}  {datum}"


def _register(event: dict[str, Any]) -> str:
    return f"rtmr{event['rtmr']}" if event["rtmr"] >= 0 else "none "


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_LINE_TEXT else f"{text[:MAX_LINE_TEXT]}… ({len(text)} characters)"
