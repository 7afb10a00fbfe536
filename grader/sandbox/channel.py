"""Messages between the grader and one child: a small JSON header and a payload of bytes, over one socket.

The child is not trusted: sizes are checked before anything is read, and a reply counts only when it carries the number
of the request it answers, so that a forged extra message is passed over.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import struct
import time
from typing import Any

from grader.wire import MAX_BYTES

_LENGTHS = struct.Struct("<IQ")
MAX_HEADER_BYTES = 256 * 1024
MAX_PAYLOAD_BYTES = MAX_BYTES + 2**20
MAX_STRAY_REPLIES = 100


class ChannelError(RuntimeError):
    """The other side is gone, or sent something that is no message."""


class SilenceError(ChannelError):
    """No answer within the time allowed."""


class Channel:
    """One end. Not safe for two threads."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def close(self) -> None:
        """Close this end; the other reads the end of file."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def send(self, header: dict[str, Any], payload: bytes = b"", deadline: float | None = None) -> None:
        """Write one message. deadline: a time.monotonic() value."""
        text = json.dumps(header).encode()
        view = memoryview(_LENGTHS.pack(len(text), len(payload)) + text + payload)
        while view:
            if deadline is not None:
                self._wait(deadline, writing=True)
            try:
                written = os.write(self.descriptor, view[: 64 * 1024] if deadline is not None else view)
            except OSError as error:
                raise ChannelError(f"the other side is gone: {error}") from error
            view = view[written:]

    def receive(self, deadline: float | None = None) -> tuple[dict[str, Any], bytes]:
        """Read one message; raises SilenceError past the deadline."""
        header_bytes, payload_bytes = _LENGTHS.unpack(self._read(_LENGTHS.size, deadline))
        if header_bytes > MAX_HEADER_BYTES or payload_bytes > MAX_PAYLOAD_BYTES:
            raise ChannelError(f"a message of {header_bytes:,} + {payload_bytes:,} bytes is over the cap")
        text = self._read(header_bytes, deadline)
        payload = self._read(payload_bytes, deadline)
        try:
            header = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ChannelError(f"a header that is no JSON: {error}") from None
        if not isinstance(header, dict):
            raise ChannelError("a header that is no JSON object")
        return header, payload

    def ask(self, header: dict[str, Any], payload: bytes, seconds: float) -> tuple[dict[str, Any], bytes]:
        """Send a request under a fresh number and wait for the reply with that number."""
        deadline = time.monotonic() + seconds
        number = secrets.token_hex(8)
        self.send({**header, "number": number}, payload, deadline)
        for _ in range(MAX_STRAY_REPLIES):
            reply, data = self.receive(deadline)
            if reply.get("number") == number:
                return reply, data
        raise ChannelError(f"{MAX_STRAY_REPLIES} messages that answer nothing")

    def _read(self, size: int, deadline: float | None) -> bytes:
        parts = []
        while size:
            if deadline is not None:
                self._wait(deadline, writing=False)
            try:
                part = os.read(self.descriptor, min(size, 2**20))
            except OSError as error:
                raise ChannelError(f"the other side is gone: {error}") from error
            if not part:
                raise ChannelError("the other side is gone")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _wait(self, deadline: float, writing: bool) -> None:
        left = deadline - time.monotonic()
        watched = select.poll()
        watched.register(self.descriptor, select.POLLOUT if writing else select.POLLIN)
        if left <= 0 or not watched.poll(left * 1000):
            raise SilenceError("no answer in time")
