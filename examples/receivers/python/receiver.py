#!/usr/bin/env python3
"""Receives leadsbotd webhooks with nothing but Python's standard library (3.9 or newer):

    LEADSBOT_SECRET=... python3 receiver.py

Every event becomes one row of the SQLite file STORE, holding the exact bytes that were signed.

It must never answer 2xx before the event would survive a power cut: after a 2xx the sender
considers the event delivered and does not send it again.
"""

import hashlib
import hmac
import json
import os
import re
import sqlite3
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BODY_BYTES_MAX = 1024 * 1024

SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    id          TEXT PRIMARY KEY,
    received_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    body        TEXT NOT NULL
)"""


class Store:
    """The events that were accepted, each once."""

    def __init__(self, path):
        self._lock = threading.Lock()
        # isolation_level=None: every statement commits by itself, none waits for a forgotten commit().
        self._db = sqlite3.connect(path, timeout=2, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # with WAL: synced to the disk at each commit
        self._db.execute(SCHEMA)

    def keep(self, event_id, body):
        """Puts the event on the disk; False when it was there already."""
        with self._lock:
            # The primary key decides, not a SELECT before it: two deliveries may come at once.
            insert = "INSERT INTO events (id, body) VALUES (?, ?) ON CONFLICT (id) DO NOTHING"
            return self._db.execute(insert, (event_id, body)).rowcount == 1


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep-alive
    timeout = 75  # seconds a silent connection may hold its thread
    disable_nagle_algorithm = True  # head and body of an answer are two writes

    secrets = ()
    store = None

    def handle(self):
        try:
            super().handle()
        except ConnectionError:
            pass  # the sender hung up; it will send again

    def do_POST(self):
        raw_body = self.read_body()
        if raw_body is None:
            return
        if not is_signed(raw_body, self.headers, self.secrets):
            return self.answer(401, error="no valid signature")
        try:
            # Decoded here, because json.loads() of bytes would also guess UTF-16 and UTF-32.
            text = raw_body.decode("utf-8")
            event = json.loads(text, parse_constant=refuse_constant)
        except (ValueError, RecursionError):
            return self.answer(400, error="the body is not JSON")
        event_id = find_event_id(self.headers.get("X-LeadsBot-Event-Id"), event)
        if event_id is None:
            return self.answer(400, error="no usable event id")
        try:
            is_new = self.store.keep(event_id, text)
        except sqlite3.Error as error:
            self.log_error("%s: not stored: %s", event_id, error)
            return self.answer(503, error="the event could not be stored")
        # Do slow work (mail, CRM, ...) from the store, not here: the sender waits for this answer.
        self.answer(200, status="stored" if is_new else "duplicate")

    def method_not_allowed(self):
        self.close_connection = True  # a body may follow that nobody reads
        self.answer(405, error="only POST is accepted here")

    do_GET = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = method_not_allowed

    def read_body(self):
        """The body's bytes as they came, or None after an answer that says why not."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers:  # http.server does not decode chunks
            self.close_connection = True
            return self.answer(411, error="a Content-Length is needed")
        if not re.fullmatch(r"[0-9]{1,18}", length):
            self.close_connection = True
            return self.answer(400, error="the Content-Length is not a number")
        length = int(length)
        if length > BODY_BYTES_MAX:
            self.close_connection = True
            # Reading on without keeping lets the sender finish and see the 413 instead of a reset;
            # not for ever, though.
            left = min(length, 8 * BODY_BYTES_MAX)
            while left > 0 and (chunk := self.rfile.read1(65536)):
                left -= len(chunk)
            return self.answer(413, error=f"the body is larger than {BODY_BYTES_MAX} bytes")
        raw_body = self.rfile.read(length)
        if len(raw_body) < length:
            raise ConnectionResetError("the sender hung up inside the body")
        return raw_body

    def answer(self, status, /, **answer):
        body = json.dumps(answer, separators=(",", ":")).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 405:
            self.send_header("Allow", "POST")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_request(self, code="-", size="-"):
        pass  # a line per delivery helps nobody; errors are still logged


class Server(ThreadingHTTPServer):
    request_queue_size = 128  # the default of 5 makes a burst wait a second for its connections


def is_signed(raw_body, headers, secrets):
    """True when a signature header was made from these bytes with one of our secrets."""
    given = []
    for name in ("X-LeadsBot-Signature", "X-LeadsBot-Signature-Next"):
        values = headers.get_all(name, [])
        # Checked first, because compare_digest raises TypeError on a str that is not ASCII.
        # fullmatch, because `$` would also accept a line break after the digits.
        if len(values) == 1 and re.fullmatch(r"[0-9a-f]{64}", values[0]):
            given.append(values[0])
    expected = [hmac.new(secret, raw_body, hashlib.sha256).hexdigest() for secret in secrets]
    return any(hmac.compare_digest(g, e) for g in given for e in expected)


def find_event_id(header, event):
    """The id to tell duplicates by, or None."""
    in_body = event.get("id") if isinstance(event, dict) else None
    if not isinstance(in_body, str):
        in_body = None
    event_id = header if header is not None else in_body
    # The signature covers the body, not the headers: nobody may pass an old event off as a new one.
    if in_body is not None and in_body.startswith("evt_") and in_body != event_id:
        return None
    return event_id if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", event_id or "") else None


def refuse_constant(name):
    raise ValueError(f"{name} is not JSON")  # json.loads() would take NaN and Infinity


def main():
    # os.fsencode gives back the bytes of the environment, whatever the locale made of them.
    secrets = [os.fsencode(os.environ.get(name, "")) for name in ("LEADSBOT_SECRET", "LEADSBOT_SECRET_NEXT")]
    if not secrets[0]:
        print("LEADSBOT_SECRET is not set: give it the secret of the destination in leadsbotd", file=sys.stderr)
        return 2
    # An empty second secret is no secret: with b"" as a key anybody could sign.
    Receiver.secrets = [secret for secret in secrets if secret]
    os.umask(0o077)  # people's details: for this user only
    Receiver.store = Store(os.environ.get("STORE") or "events.db")
    address = (os.environ.get("HOST") or "127.0.0.1", int(os.environ.get("PORT") or 9000))
    with Server(address, Receiver) as server:
        print("listening on http://%s:%d" % server.server_address[:2], flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
