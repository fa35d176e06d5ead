"""The real TVM as a child process; blocking and safe to call from several threads."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pytoniq_core.boc.cell import Cell

from e2e.devnet.packages import node_modules
from e2e.devnet.reasons import DevnetError, DevnetReason

BRIDGE = Path(__file__).with_name("bridge.js")


@dataclass(frozen=True)
class Emulated:
    """What a transaction did."""

    transaction: Cell
    account: Cell  # the ShardAccount afterwards


@dataclass(frozen=True)
class GetResult:
    """What a get-method returned."""

    exit_code: int
    stack: bytes  # a bag of cells: VmStack
    gas_used: int


class Tvm:
    """One Node process that runs transactions and get-methods.  Use as a context manager, or call close()."""

    def __init__(self) -> None:
        command = ["node", str(BRIDGE), str(node_modules())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child and wait for it."""
        with self._lock:
            if self._process.stdin is not None and not self._process.stdin.closed:
                self._process.stdin.close()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()

    @property
    def pid(self) -> int:
        """Of the Node process."""
        return self._process.pid

    def default_config(self) -> Cell:
        """The chain configuration that the sandbox carries (mainnet's, reduced)."""
        return _cell(self._ask({"op": "config"})["config"])

    def transaction(self, *, config: str, account: Cell, message: Cell, now: int, lt: int) -> Emulated:
        """Run one message on one account (config: text_of a configuration cell).

        Raises DevnetError MessageNotAccepted, with exit_code, for an external message that the contract does not accept.
        """
        question = {"op": "tx", "config": config, "account": text_of(account), "message": text_of(message)}
        answer = self._ask(question | {"now": now, "lt": str(lt), "seed": secrets.token_hex(32)})
        output = answer.get("output") or {}
        if answer.get("fail") or not output.get("success"):
            code = output.get("vm_exit_code")
            what = output.get("error") or answer.get("message") or "no reason was given"
            error = DevnetError(DevnetReason.MESSAGE_NOT_ACCEPTED, f"{what}, exitcode={code}", "read the contract's exit codes")
            error.exit_code = code
            raise error
        return Emulated(_cell(output["transaction"]), _cell(output["shard_account"]))

    def get_method(
        self, *, config: str, code: Cell, data: Cell, address: str, now: int, balance: int, method: int, stack: bytes
    ) -> GetResult:
        """Run a get-method (method: its id; stack: VmStack as a bag of cells)."""
        question = {"op": "get", "config": config, "code": text_of(code), "data": text_of(data), "address": address, "now": now}
        question |= {"balance": str(balance), "seed": secrets.token_hex(32), "method": method, "stack": base64.b64encode(stack).decode()}
        answer = self._ask(question)
        output = answer.get("output") or {}
        if answer.get("fail") or not output.get("success"):
            raise DevnetError(DevnetReason.TVM_FAILED, "the TVM did not run the get-method", "", str(answer)[:1000])
        return GetResult(output["vm_exit_code"], base64.b64decode(output["stack"]), int(output["gas_used"]))

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            stdin, stdout = self._process.stdin, self._process.stdout
            if stdin is None or stdout is None or stdin.closed:
                raise DevnetError(DevnetReason.TVM_FAILED, "the TVM's process has ended", "start the devnet again")
            try:
                stdin.write(json.dumps(question) + "\n")
                stdin.flush()
                line = stdout.readline()
            except OSError as error:
                raise DevnetError(DevnetReason.TVM_FAILED, "the TVM's process has ended", "start the devnet again", str(error)) from error
        if not line:
            raise DevnetError(DevnetReason.TVM_FAILED, "the TVM's process has ended", "start the devnet again")
        answer: dict[str, Any] = json.loads(line)
        return answer


def text_of(cell: Cell) -> str:
    """A cell as base64 of its bag of cells."""
    return base64.b64encode(cell.to_boc()).decode()


def _cell(text: str) -> Cell:
    return Cell.one_from_boc(base64.b64decode(text))
