"""ADNL over TCP, the server's side: handshake, encrypted frames, one query at a time per task.

A frame: length (4 bytes, little endian) || nonce (32) || payload || SHA-256(nonce || payload), AES-CTR over the stream.
The client's handshake is 256 bytes: our key's id, its own Ed25519 key, the SHA-256 of 160 random bytes, and these bytes
under a key that both sides derive (X25519); they give the two stream ciphers.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable

from nacl.signing import SigningKey, VerifyKey
from pytoniq_core.crypto.ciphers import aes_ctr_decrypt, aes_ctr_encrypt, create_aes_ctr_cipher, get_shared_key

log = logging.getLogger(__name__)
ED25519_KEY_TAG = b"\xc6\xb4\x13\x48"
HANDSHAKE_BYTES = 256
MAX_FRAME_BYTES = 1 << 20
MAX_AT_ONCE = 64
Answer = Callable[[bytes], Awaitable[bytes]]
"""Takes a packet and gives the packet that answers it."""


def key_id(public_key: bytes) -> bytes:
    """The short id of an Ed25519 key."""
    return hashlib.sha256(ED25519_KEY_TAG + public_key).digest()


class AdnlServer:
    """Speaks ADNL under one Ed25519 key and hands the packets to `answer`."""

    def __init__(self, seed: bytes, answer: Answer) -> None:
        self._key, self._answer = SigningKey(seed), answer
        self.public_key = bytes(self._key.verify_key)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()

    async def start(self, host: str, port: int = 0) -> int:
        """Listen; returns the port."""
        self._server = await asyncio.start_server(self._connection, host, port)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening and drop every connection."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._connections):
                writer.close()
            await self._server.wait_closed()
            self._server = None

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        tasks: set[asyncio.Task[None]] = set()
        try:
            random = self._open(await reader.readexactly(HANDSHAKE_BYTES))
            outgoing, incoming = create_aes_ctr_cipher(random[:32], random[64:80]), create_aes_ctr_cipher(random[32:64], random[80:96])
            lock, slots = asyncio.Lock(), asyncio.Semaphore(MAX_AT_ONCE)

            async def send(payload: bytes) -> None:
                nonce = secrets.token_bytes(32)
                frame = (len(payload) + 64).to_bytes(4, "little") + nonce + payload + hashlib.sha256(nonce + payload).digest()
                async with lock:
                    writer.write(aes_ctr_encrypt(outgoing, frame))
                    await writer.drain()

            async def serve(packet: bytes) -> None:
                async with slots:
                    try:
                        await send(await self._answer(packet))
                    except (ConnectionError, RuntimeError):
                        writer.close()

            await send(b"")
            while True:
                length = int.from_bytes(aes_ctr_decrypt(incoming, await reader.readexactly(4)), "little")
                if not 64 <= length <= MAX_FRAME_BYTES:
                    raise ValueError(f"a frame of {length} bytes")
                frame = aes_ctr_decrypt(incoming, await reader.readexactly(length))
                if hashlib.sha256(frame[:-32]).digest() != frame[-32:]:
                    raise ValueError("a frame with a wrong checksum")
                task = asyncio.create_task(serve(frame[32:-32]))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        except ValueError as error:
            log.info("a connection was dropped: %s", error)
        finally:
            self._connections.discard(writer)
            for task in tasks:
                task.cancel()
            writer.close()

    def _open(self, handshake: bytes) -> bytes:
        """The 160 random bytes of a handshake; ValueError when it is not for us."""
        if handshake[:32] != key_id(self.public_key):
            raise ValueError("a handshake for another key")
        theirs, checksum = VerifyKey(handshake[32:64]).to_curve25519_public_key(), handshake[64:96]
        shared = get_shared_key(self._key.to_curve25519_private_key().encode(), theirs.encode())
        cipher = create_aes_ctr_cipher(shared[:16] + checksum[16:32], checksum[:4] + shared[20:32])
        random: bytes = aes_ctr_decrypt(cipher, handshake[96:])
        if hashlib.sha256(random).digest() != checksum:
            raise ValueError("a handshake with a wrong checksum")
        return random
