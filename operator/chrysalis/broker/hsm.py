"""Sealing with a key in a PKCS #11 token (an HSM, or SoftHSM): AES-GCM inside of the token, the key never leaves it.

PKCS #11 v3.0, section 2.12.2 (CKM_AES_GCM).  The nonce is made here: tokens differ in who makes it.  One session, one operation at
a time; a session that the token lost is opened again once.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pkcs11
from pkcs11 import exceptions as token_errors
from pydantic import Field

from chrysalis.api.base import Model
from chrysalis.broker.encryption import NONCE_BYTES, not_opened, unavailable

TAG_BITS = 128
MAX_PIN_BYTES = 4096


class HsmSettings(Model):
    """A secret key in a token.

    module: the vendor's shared library.  token: the token's label.  key: the label of an AES key there, which may encrypt and decrypt
    (generate it in the token, not extractable).  pinFile: the user PIN.
    """

    kind: Literal["Pkcs11"]
    module: Path
    token: Annotated[str, Field(pattern=r"^[\x20-\x7e]{1,32}$")]
    key: Annotated[str, Field(pattern=r"^[\x20-\x7e]{1,128}$")]
    pin_file: Path


class Hsm:
    """A KeyWrapper over one AES key of a PKCS #11 token.  Thread-safe."""

    scheme = "pkcs11"

    def __init__(self, settings: HsmSettings) -> None:
        self._settings = settings
        self.key_id = f"{settings.token}/{settings.key}"
        self._lock = threading.Lock()
        self._session: pkcs11.Session | None = None
        self._key: Any = None  # the library's stubs do not know what a key can do

    def wrap(self, secret: bytes, associated: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        parameters = pkcs11.GCMParams(nonce, associated, TAG_BITS)
        try:
            sealed = self._use(lambda key: key.encrypt(secret, mechanism=pkcs11.Mechanism.AES_GCM, mechanism_param=parameters))
        except token_errors.PKCS11Error as error:
            raise unavailable(self, _words(error)) from error
        return nonce + sealed

    def unwrap(self, body: bytes, associated: bytes) -> bytes:
        nonce, ciphertext = body[:NONCE_BYTES], body[NONCE_BYTES:]
        if len(ciphertext) < TAG_BITS // 8:
            raise not_opened(self, "it is too short")
        parameters = pkcs11.GCMParams(nonce, associated, TAG_BITS)
        try:
            return self._use(lambda key: key.decrypt(ciphertext, mechanism=pkcs11.Mechanism.AES_GCM, mechanism_param=parameters))
        except (token_errors.EncryptedDataInvalid, token_errors.EncryptedDataLenRange, token_errors.GeneralError) as error:
            # SoftHSM answers a wrong tag with CKR_GENERAL_ERROR; the standard's word is CKR_ENCRYPTED_DATA_INVALID.
            raise not_opened(self, _words(error)) from error
        except token_errors.PKCS11Error as error:
            raise unavailable(self, _words(error)) from error

    def current(self, body: bytes) -> bool:
        return True  # another key has another label

    def close(self) -> None:
        with self._lock:
            self._forget()

    def _use(self, operation: Callable[[Any], bytes]) -> bytes:
        with self._lock:
            for last in (False, True):
                try:
                    return bytes(operation(self._key or self._open()))
                except (
                    token_errors.SessionHandleInvalid,
                    token_errors.SessionClosed,
                    token_errors.UserNotLoggedIn,
                    token_errors.DeviceRemoved,
                    token_errors.KeyHandleInvalid,
                    token_errors.ObjectHandleInvalid,
                ):
                    self._forget()
                    if last:
                        raise
        raise AssertionError("the loop returns or raises")

    def _open(self) -> Any:
        settings = self._settings
        try:
            with settings.pin_file.open("rb") as file:
                pin = file.read(MAX_PIN_BYTES).decode().strip()
            token = pkcs11.lib(str(settings.module)).get_token(token_label=settings.token)
            try:
                self._session = token.open(user_pin=pin)
            except token_errors.UserAlreadyLoggedIn:  # a login is the whole process's: another session has it
                self._session = token.open()
            self._key = self._session.get_key(object_class=pkcs11.ObjectClass.SECRET_KEY, key_type=pkcs11.KeyType.AES, label=settings.key)
        except (OSError, ValueError, RuntimeError) as error:  # the library raises its own errors and plain RuntimeErrors
            self._forget()
            raise unavailable(self, _words(error)) from error
        return self._key

    def _forget(self) -> None:
        session, self._session, self._key = self._session, None, None
        if session is not None:
            with contextlib.suppress(RuntimeError):
                session.close()


def _words(error: Exception) -> str:
    return f"{type(error).__name__} {error}".strip()
