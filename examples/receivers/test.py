#!/usr/bin/env python3
"""Drives the example receivers through everything a receiver has to get right.

    python3 test.py --receiver all

Starts each receiver on a free loopback port with an empty store, and stops nothing that it did not
start. Python's standard library only. Prints a line per check and a closing line; exits non-zero when
a check failed. A receiver whose runtime is missing is skipped, or failed with LEADSBOT_REQUIRE_PEERS=1.
"""

import argparse
import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
SECRET = "0123456789abcdef0123456789abcdef"  # looks like hex, and must not be taken for hex
BODY_BYTES_MAX = 1024 * 1024
TIMEOUT_S = 10

VECTOR_BODY = (
    b'{"event":"lead.created","data":{"name":"Jane Smith","email":"jane@example.com",'
    b'"score":88,"source":"website-widget"}}'
)
VECTOR_SIGNATURE = "501e7a093299d00a65125a8b217b28ebc53efe0a4eb349496c10241da5f26cde"


# ---- The receivers -------------------------------------------------------------------------------


class Missing(Exception):
    """The runtime of a receiver is not on this machine."""


class Receiver:
    """How to build and start one of the receivers, and how to look into its store."""

    def __init__(self, name):
        self.name = name
        self.command = getattr(self, "command_" + name)()

    def command_node(self):
        node = shutil.which("node")
        if node is None:
            raise Missing("apt-get install nodejs")
        return [node, str(HERE / "node" / "receiver.mjs")]

    def command_python(self):
        return [sys.executable, str(HERE / "python" / "receiver.py")]

    def command_php(self):
        php = shutil.which("php")
        loaded = 'exit(extension_loaded("pdo_sqlite") && extension_loaded("pcntl") ? 0 : 1);'
        if php is None or subprocess.run([php, "-r", loaded]).returncode != 0:
            raise Missing("apt-get install php-cli php-sqlite3")
        return [php, str(HERE / "php" / "receiver.php")]

    def command_rust(self):
        cargo = shutil.which("cargo")
        if cargo is None:
            raise Missing("apt-get install cargo (Rust 1.85 or newer)")
        build = [cargo, "build", "--quiet", "--locked", "--message-format=json-render-diagnostics"]
        output = subprocess.run(build, cwd=HERE / "rust", check=True, stdout=subprocess.PIPE).stdout
        messages = [json.loads(line) for line in output.splitlines()]
        return [next(message["executable"] for message in messages if message.get("executable"))]

    def rows(self, store):
        """What is kept: {event id: body}."""
        if store.is_dir():
            return {path.stem: path.read_bytes() for path in store.glob("*.json")}
        if not store.exists():
            return {}
        with contextlib.closing(sqlite3.connect(store, timeout=TIMEOUT_S)) as db:
            try:
                rows = db.execute("SELECT id, CAST(body AS BLOB) FROM events").fetchall()
            except sqlite3.OperationalError:  # the table comes with the first event
                return {}
        assert len(rows) == len({row[0] for row in rows}), "an event id is stored twice"
        return dict(rows)

    @contextlib.contextmanager
    def broken(self, store):
        """While this lasts, nothing can be stored."""
        if store.is_dir():
            aside = store.with_name(store.name + ".aside")
            store.rename(aside)
            store.write_text("not a directory")
            try:
                yield
            finally:
                store.unlink()
                aside.rename(store)
        else:
            with contextlib.closing(sqlite3.connect(store, isolation_level=None)) as db:
                db.execute("BEGIN IMMEDIATE")
                yield


class Running:
    """A started receiver. It gets a process group of its own, so that ending it ends its workers too."""

    def __init__(self, receiver, store, log, **env):
        self.receiver, self.store = receiver, store
        ours = ("HOST", "PORT", "STORE", "LEADSBOT_SECRET", "LEADSBOT_SECRET_NEXT")
        env = {"LEADSBOT_SECRET": SECRET, "STORE": str(store), "PORT": "0", **env}
        env = {**{key: value for key, value in os.environ.items() if key not in ours}, **env}
        self.process = subprocess.Popen(
            receiver.command, env=env, cwd=store.parent, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        )
        try:
            self.port = self.announced_port()
            self.wait_until_open()
        except BaseException:
            self.kill()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def announced_port(self):
        watchdog = threading.Timer(TIMEOUT_S, self.kill)  # ends the readline below
        watchdog.start()
        line = self.process.stdout.readline().decode()
        watchdog.cancel()
        match = re.fullmatch(r"listening on http://127\.0\.0\.1:(\d+)\n", line)
        assert match, f"first line on stdout is {line!r}"
        return int(match[1])

    def wait_until_open(self):
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                return self.connect().close()
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def kill(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_S)

    def rows(self):
        return self.receiver.rows(self.store)

    def send(self, body, headers, method="POST", connection=None):
        """One request. Returns the status and the answer, or raises what the connection raised."""
        used = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        try:
            used.putrequest(method, "/webhooks/leadsbot")
            used.putheader("Content-Type", "application/json")
            used.putheader("Content-Length", str(len(body)))
            for name, value in headers:
                used.putheader(name, value)
            used.endheaders()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # answered before all was sent
                used.send(body)
            answer = used.getresponse()
            content = answer.read()
            return answer.status, json.loads(content) if content else None, answer.headers
        finally:
            if connection is None:
                used.close()

    def deliver(self, body, event_id=None, secret=SECRET, connection=None, **more):
        """A delivery as leadsbotd makes it. Returns (status, answer)."""
        return self.send(body, delivery_headers(body, event_id, secret, **more), connection=connection)[:2]


# ---- Deliveries ----------------------------------------------------------------------------------

_count = iter(range(1, 1_000_000))


def new_id(prefix="evt"):
    return f"{prefix}_{next(_count):026d}"


def event(event_id, **data):
    return json.dumps({"id": event_id, "event": "lead.created", "data": {"name": "Zoë 日本", **data}}).encode()


def sign(body, secret):
    key = secret if isinstance(secret, bytes) else secret.encode()
    return hmac.new(key, body, hashlib.sha256).hexdigest()


def standard_headers(body, event_id, secret):
    key = base64.b64decode(secret[6:]) if secret.startswith("whsec_") else secret.encode()
    stamp = str(int(time.time()))
    mac = hmac.new(key, f"{event_id}.{stamp}.".encode() + body, hashlib.sha256).digest()
    signature = "v1," + base64.b64encode(mac).decode()
    return [("webhook-id", event_id), ("webhook-timestamp", stamp), ("webhook-signature", signature)]


def delivery_headers(body, event_id, secret, next_secret=None, attempt=1):
    headers = [
        ("User-Agent", "leadsbotd/0.1.0"),
        ("X-LeadsBot-Signature", sign(body, secret)),
        ("X-LeadsBot-Event", "lead.created"),
        ("X-LeadsBot-Delivery-Id", new_id("dlv")),
        ("X-LeadsBot-Attempt", str(attempt)),
        ("X-LeadsBot-Timestamp", str(int(time.time()))),
    ]
    if next_secret is not None:
        headers.append(("X-LeadsBot-Signature-Next", sign(body, next_secret)))
    if event_id is not None:
        headers.append(("X-LeadsBot-Event-Id", event_id))
        headers += standard_headers(body, event_id, secret)
    return headers


def malformed_signatures(good):
    """Every one of these is a header value that a careless comparison stumbles over."""
    name = "X-LeadsBot-Signature"
    digest = base64.b64encode(bytes.fromhex(good))
    values = {
        "missing": None,
        "empty": b"",
        "one digit short": good[:-1],
        "one digit long": good + "0",
        "one byte only": "5",
        "upper-case": good.upper(),
        "one upper-case digit": re.sub("[a-f]", lambda m: m[0].upper(), good, count=1),
        "with a sha256= prefix": "sha256=" + good,
        "with a 0x prefix": "0x" + good[2:],
        "in quotes": f'"{good}"',
        "not hex, right length": "g" * 64,
        "base64 of the right digest": digest,
        "a space inside": good[:32] + " " + good[33:],
        "a tab inside": good[:32] + "\t" + good[33:],
        "dashes, right length": "-" * 64,
        "latin-1 bytes, right length": b"\xe9" * 64,
        "UTF-8 full-width digits": "\uff10".encode() * 64,
        "UTF-8, right length in bytes": "é".encode() * 32,
        "right digits and a non-ASCII byte": good[:-1].encode() + b"\xff",
        "two signatures with a comma": f"{good},{good}",
        "two signatures with a space": f"{good} {good}",
        "the Standard Webhooks form": b"v1," + digest,
        "4,000 characters": "a" * 4000,
        "all zeros": "0" * 64,
    }
    for kind, value in values.items():
        yield kind, [] if value is None else [(name, value)]
    yield "the right header twice", [(name, good), (name, good)]


# ---- The checks ----------------------------------------------------------------------------------


class Suite:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.receiver = ""

    @contextlib.contextmanager
    def check(self, name):
        try:
            yield
        except Exception as error:  # whatever it was, the other checks still have something to say
            self.fail(name, f"{type(error).__name__}: {error}")
        else:
            self.passed += 1
            print(f"ok    {self.receiver:6}  {name}", flush=True)

    def fail(self, name, why):
        self.failed += 1
        print(f"FAIL  {self.receiver:6}  {name}: {why}", flush=True)


def expect(got, status, answer=None):
    assert got[0] == status, f"expected {status}, got {got[0]} {got[1]}"
    if answer is not None:
        assert got[1] == {"status": answer}, f"expected status {answer}, got {got[1]}"


def run_receiver(suite, receiver, folder, log):
    check_start(suite, receiver, folder)
    with Running(receiver, folder / "main", log) as running:
        check_accepting(suite, running)
        check_signatures(suite, running)
        check_bodies(suite, running)
        check_event_ids(suite, running)
        check_methods(suite, running)
        check_duplicates(suite, running)
        check_connections(suite, running)
        check_store_failure(suite, running)
        with suite.check("is still the process that was started, and printed one line only"):
            assert running.process.poll() is None, "it ended"
            running.kill()
            rest = running.process.stdout.read()
            assert rest == b"", f"more on stdout: {rest[:200]!r}"
    check_rotation(suite, receiver, folder, log)
    check_secret_forms(suite, receiver, folder, log)
    check_kill(suite, receiver, folder, log)


def check_start(suite, receiver, folder):
    for name, env in (("without", {}), ("with an empty", {"LEADSBOT_SECRET": ""})):
        with suite.check(f"{name} LEADSBOT_SECRET: exit code 2 and a reason"):
            clean = {key: value for key, value in os.environ.items() if not key.startswith("LEADSBOT_")}
            clean |= {"PORT": "0", "STORE": str(folder / "unused"), **env}
            try:
                ended = subprocess.run(receiver.command, env=clean, capture_output=True, timeout=TIMEOUT_S)
            except subprocess.TimeoutExpired:
                raise AssertionError("it started") from None
            assert ended.returncode == 2, f"exit code {ended.returncode}"
            assert b"LEADSBOT_SECRET" in ended.stderr, f"stderr is {ended.stderr[:200]!r}"
            assert ended.stdout == b"", f"stdout is {ended.stdout[:200]!r}"


def check_accepting(suite, running):
    with suite.check("a good signature: 200 stored, with the bytes that were signed"):
        event_id = new_id()
        body = event(event_id)
        expect(running.deliver(body, event_id), 200, "stored")
        assert running.rows().get(event_id) == body, "the stored body differs"

    with suite.check("the published test vector"):
        assert len(VECTOR_BODY) == 117 and sign(VECTOR_BODY, SECRET) == VECTOR_SIGNATURE
        headers = [("X-LeadsBot-Signature", VECTOR_SIGNATURE), ("X-LeadsBot-Event-Id", new_id())]
        expect(running.send(VECTOR_BODY, headers), 200, "stored")

    with suite.check("blanks, key order and escapes of the body stay as they are"):
        event_id = new_id()
        body = b'\r\n { "z" : 1.0 , "a":"\\u00e9\\/" ,\t"id" : "%s" }\n' % event_id.encode()
        expect(running.deliver(body, event_id), 200, "stored")
        assert running.rows().get(event_id) == body, "the stored body differs"

    with suite.check("a mapped body, without an id of its own"):
        event_id = new_id()
        expect(running.deliver(b'["Jane","jane@example.com"]', event_id), 200, "stored")


def check_signatures(suite, running):
    before = running.rows()
    event_id = new_id()
    body = event(event_id)
    good = sign(body, SECRET)
    rest = [header for header in delivery_headers(body, event_id, SECRET) if header[0] != "X-LeadsBot-Signature"]

    for kind, headers in malformed_signatures(good):
        with suite.check(f"signature header {kind}: 401"):
            expect(running.send(body, rest + headers), 401)

    wrong = {
        "made with another secret": sign(body, "another secret"),
        "made with the hex-decoded secret": sign(body, bytes.fromhex(SECRET)),
        "made with an empty secret": sign(body, ""),
        "made with the secret and a line break": sign(body, SECRET + "\n"),
        "a plain SHA-256 of the body": hashlib.sha256(body).hexdigest(),
        "wrong in its first digit": ("0" if good[0] != "0" else "1") + good[1:],
        "wrong in its last digit": good[:-1] + ("0" if good[-1] != "0" else "1"),
    }
    for kind, signature in wrong.items():
        with suite.check(f"signature {kind}: 401"):
            expect(running.send(body, [*rest, ("X-LeadsBot-Signature", signature)]), 401)

    altered = {
        "one byte changed": body.replace(b"lead.created", b"lead.createD"),
        "a line break added": body + b"\n",
        "written anew by a JSON library": json.dumps(json.loads(body), separators=(",", ":")).encode(),
        "removed": b"",
    }
    for kind, changed in altered.items():
        with suite.check(f"body altered, {kind}: 401"):
            expect(running.send(changed, [*rest, ("X-LeadsBot-Signature", good)]), 401)

    with suite.check("not JSON and not signed: 401, for the signature comes first"):
        expect(running.send(b"not json", [("X-LeadsBot-Signature", good), ("X-LeadsBot-Event-Id", event_id)]), 401)
    with suite.check("nothing of all that was stored"):
        assert running.rows() == before, "something was"


def check_bodies(suite, running):
    before = running.rows()
    not_json = {
        "text": b"lead.created",
        "empty": b"",
        "cut off": event(new_id())[:-1],
        "two values": b"{}{}",
        "NaN": b'{"score":NaN}',
        "not UTF-8": b'{"name":"Zo\xeb"}',
        "a lone continuation byte": b'{"name":"\x80"}',
        "UTF-16": '{"a":1}'.encode("utf-16"),
        "a byte order mark first": b"\xef\xbb\xbf{}",
        "a NUL byte": b'{"a":1}\0',
    }
    for kind, body in not_json.items():
        with suite.check(f"signed but not JSON, {kind}: 400"):
            expect(running.deliver(body, new_id()), 400)
    with suite.check("a body nested 400,000 deep does no harm"):
        status, _ = running.deliver(b"[" * 400_000 + b"]" * 400_000, deep := new_id())
        assert status in (200, 400), f"got {status}"

    for kind, size in (("one byte", BODY_BYTES_MAX + 1), ("3 MiB", 4 * BODY_BYTES_MAX)):
        with suite.check(f"{kind} too large: 413"):
            expect(running.deliver(b'"' + b"x" * (size - 2) + b'"', new_id()), 413)
    with suite.check("none of these was stored"):
        assert running.rows().keys() - {deep} == before.keys(), "something was"
    with suite.check("exactly 1 MiB: stored"):
        expect(running.deliver(b'"' + b"x" * (BODY_BYTES_MAX - 2) + b'"', new_id()), 200, "stored")


def check_event_ids(suite, running):
    with suite.check("no X-LeadsBot-Event-Id: the id in the body counts"):
        event_id = new_id()
        expect(running.deliver(event(event_id)), 200, "stored")
        expect(running.deliver(event(event_id), event_id), 200, "duplicate")
    with suite.check("no id at all: 400"):
        expect(running.deliver(VECTOR_BODY), 400)
    with suite.check("an old event under a new X-LeadsBot-Event-Id: 400"):
        expect(running.deliver(event(new_id()), new_id()), 400)
    with suite.check("an id in the body that is not an event id does not matter"):
        expect(running.deliver(b'{"id":"lead_1"}', new_id()), 200, "stored")
        expect(running.deliver(b'{"id":7}', new_id()), 200, "stored")

    before = running.rows()
    for kind, event_id in (
        ("a path", "../../evt_x"),
        ("a dot", ".."),
        ("empty", b""),
        ("not ASCII", "evt_é".encode()),
        ("4,000 characters", "e" * 4000),
    ):
        with suite.check(f"X-LeadsBot-Event-Id is {kind}: 400"):
            headers = [("X-LeadsBot-Signature", VECTOR_SIGNATURE), ("X-LeadsBot-Event-Id", event_id)]
            expect(running.send(VECTOR_BODY, headers), 400)
    with suite.check("an id in the body with a lone surrogate: 400"):
        expect(running.deliver(b'{"id":"evt_\\ud800"}'), 400)
    with suite.check("no event with such an id was stored"):
        assert running.rows() == before, "something was"


def check_methods(suite, running):
    before = running.rows()
    for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"):
        with suite.check(f"{method}: 405 with Allow"):
            event_id = new_id()
            body = event(event_id) if method in ("PUT", "PATCH", "DELETE") else b""
            got = running.send(body, delivery_headers(body, event_id, SECRET), method=method)
            expect(got, 405)
            assert "POST" in got[2].get("Allow", ""), "no Allow header"
    with suite.check("no other method stored anything"):
        assert running.rows() == before, "something was"


def check_duplicates(suite, running):
    with suite.check("the same event again: 200 duplicate, one row"):
        event_id = new_id()
        body = event(event_id)
        count = len(running.rows())
        expect(running.deliver(body, event_id), 200, "stored")
        for attempt in (2, 3):
            expect(running.deliver(body, event_id, attempt=attempt), 200, "duplicate")
        assert len(running.rows()) == count + 1, "not one row more"

    with suite.check("the same event 8 times at once: one stored, seven duplicates, one row"):
        for _ in range(5):
            event_id = new_id()
            body = event(event_id)
            count = len(running.rows())
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda _: running.deliver(body, event_id), range(8)))
            got = sorted(f"{status} {answer}" for status, answer in answers)
            assert got == ["200 {'status': 'duplicate'}"] * 7 + ["200 {'status': 'stored'}"], f"got {got}"
            assert len(running.rows()) == count + 1, "not one row more"

    with suite.check("64 events over 16 connections at once: all stored"):
        ids = [new_id() for _ in range(64)]
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda event_id: running.deliver(event(event_id), event_id), ids))
        for answer in answers:
            expect(answer, 200, "stored")
        assert set(ids) <= running.rows().keys(), "some are missing"


def check_connections(suite, running):
    with suite.check("several deliveries over one connection, also after a refusal"):
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=TIMEOUT_S)
        with contextlib.closing(connection):
            for secret, status in ((SECRET, 200), ("wrong", 401), (SECRET, 200), (SECRET, 200)):
                event_id = new_id()
                expect(running.deliver(event(event_id), event_id, secret, connection), status)

    def raw_request(body, event_id, declared=None):
        headers = delivery_headers(body, event_id, SECRET)
        head = ["POST / HTTP/1.1", "Host: localhost", f"Content-Length: {declared or len(body)}"]
        head += [f"{name}: {value}" for name, value in headers]
        return "\r\n".join(head).encode() + b"\r\n\r\n" + body

    with suite.check("a sender that hangs up inside the body: not stored, nothing breaks"):
        cut = new_id()
        body = event(cut)
        for _ in range(4):
            with running.connect() as connection:
                # The signature fits what was sent, so only the declared length tells that it is cut off.
                connection.sendall(raw_request(body, cut, declared=len(body) + 100))
        event_id = new_id()
        expect(running.deliver(event(event_id), event_id), 200, "stored")
        time.sleep(0.2)
        assert cut not in running.rows(), "it was stored"

    with suite.check("a sender that hangs up before the answer: sent again, kept once"):
        event_id = new_id()
        body = event(event_id)
        for _ in range(4):
            with running.connect() as connection:
                connection.sendall(raw_request(body, event_id))
        status, answer = running.deliver(body, event_id)
        assert status == 200 and answer["status"] in ("stored", "duplicate"), f"got {status} {answer}"
        assert running.rows()[event_id] == body

    with suite.check("connections that stay silent or stop half-way hold up nobody"):
        with contextlib.ExitStack() as stack:
            for part in (0, 0, 20, 60, 60, -10, -10, -10):
                connection = stack.enter_context(running.connect())
                idle = new_id()
                request = raw_request(event(idle), idle)
                connection.sendall(request[:part])
            event_id = new_id()
            expect(running.deliver(event(event_id), event_id), 200, "stored")

    with suite.check("a chunked body is read or refused, never misread"):
        event_id = new_id()
        body = event(event_id)
        headers = delivery_headers(body, event_id, SECRET)
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=TIMEOUT_S)
        with contextlib.closing(connection):
            chunks = iter([body[:10], body[10:]])
            connection.request("POST", "/", chunks, {**dict(headers), "Transfer-Encoding": "chunked"}, encode_chunked=True)
            status = connection.getresponse().status
        assert status in (200, 411), f"got {status}"
        assert (event_id in running.rows()) == (status == 200)


def check_store_failure(suite, running):
    event_id = new_id()
    body = event(event_id)
    with suite.check("an event that cannot be stored: 500 or 503"):
        with running.receiver.broken(running.store):
            status, answer = running.deliver(body, event_id)
        assert status in (500, 503), f"got {status} {answer}"
    with suite.check("and sent again later it is stored, not called a duplicate"):
        expect(running.deliver(body, event_id, attempt=2), 200, "stored")
        assert running.rows()[event_id] == body


def check_rotation(suite, receiver, folder, log):
    old, new, other = "the old secret", "the new secret", "a secret of nobody"
    with Running(receiver, folder / "rotation", log, LEADSBOT_SECRET=old, LEADSBOT_SECRET_NEXT=new) as running:
        for name, secret, next_secret, status in (
            ("sender has the old one only", old, None, 200),
            ("sender has both", old, new, 200),
            ("sender has the new one only", new, None, 200),
            ("sender has another, and another next", other, other, 401),
        ):
            with suite.check(f"rotation, receiver knows both, {name}: {status}"):
                event_id = new_id()
                expect(running.deliver(event(event_id), event_id, secret, next_secret=next_secret), status)

    with Running(receiver, folder / "rotated", log, LEADSBOT_SECRET=new, LEADSBOT_SECRET_NEXT="") as running:
        for name, secret, next_secret, status in (
            ("sender has both: the -Next header counts", old, new, 200),
            ("sender has the old one only", old, None, 401),
            ("the -Next header is malformed", old, None, 401),
            ("an empty LEADSBOT_SECRET_NEXT is no key", "", "", 401),
        ):
            with suite.check(f"rotation, receiver knows the new one, {name}: {status}"):
                event_id = new_id()
                headers = delivery_headers(event(event_id), event_id, secret, next_secret)
                if "malformed" in name:
                    headers.append(("X-LeadsBot-Signature-Next", b"\xff" * 64))
                expect(running.send(event(event_id), headers), status)


def check_secret_forms(suite, receiver, folder, log):
    for number, secret in enumerate(("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "schlüssel-鍵", "k" * 200)):
        with suite.check(f"the secret is its UTF-8 bytes as configured: {secret[:40]}"):
            with Running(receiver, folder / f"secret-{number}", log, LEADSBOT_SECRET=secret) as running:
                event_id = new_id()
                expect(running.deliver(event(event_id), event_id, secret), 200, "stored")
                if secret.startswith("whsec_"):
                    decoded = base64.b64decode(secret[6:])
                    headers = [("X-LeadsBot-Signature", sign(VECTOR_BODY, decoded)), ("X-LeadsBot-Event-Id", new_id())]
                    expect(running.send(VECTOR_BODY, headers), 401)


def check_kill(suite, receiver, folder, log):
    with suite.check("kill -9 right after a 2xx, then a restart: still known, five times over"):
        sent = {}
        for _ in range(5):
            with Running(receiver, folder / "kill", log) as running:
                for known, body in sent.items():
                    expect(running.deliver(body, known, attempt=2), 200, "duplicate")
                event_id = new_id()
                body = event(event_id)
                expect(running.deliver(body, event_id), 200, "stored")
                running.kill()
                sent[event_id] = body
        with Running(receiver, folder / "kill", log) as running:
            for known, body in sent.items():
                expect(running.deliver(body, known, attempt=2), 200, "duplicate")
            assert running.rows() == sent, "the rows differ from what was sent"

    with suite.check("kill -9 in the middle of deliveries: everything answered 2xx is there"):
        answered = {}
        with Running(receiver, folder / "kill-busy", log) as running:

            def keep_sending(_):
                with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                    while True:
                        event_id = new_id()
                        body = event(event_id)
                        expect(running.deliver(body, event_id), 200, "stored")
                        answered[event_id] = body

            with ThreadPoolExecutor(4) as pool:
                senders = pool.map(keep_sending, range(4))
                time.sleep(0.7)
                running.kill()
                list(senders)
        assert answered, "nothing was delivered"
        with Running(receiver, folder / "kill-busy", log) as running:
            for known in list(answered)[-8:]:
                expect(running.deliver(answered[known], known, attempt=2), 200, "duplicate")
            rows = running.rows()
            assert all(rows.get(known) == body for known, body in answered.items()), "some are missing"


def main():
    names = ("node", "python", "php", "rust")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--receiver", choices=(*names, "all"), default="all")
    chosen = parser.parse_args().receiver
    suite = Suite()
    for name in names if chosen == "all" else (chosen,):
        suite.receiver = name
        run_one(suite, name)
    skipped = f", {suite.skipped} skipped" if suite.skipped else ""
    print(f"{suite.passed} passed, {suite.failed} failed{skipped}")
    return 1 if suite.failed else 0


def run_one(suite, name):
    try:
        receiver = Receiver(name)
    except Missing as missing:
        if os.environ.get("LEADSBOT_REQUIRE_PEERS") == "1":
            return suite.fail("runtime", f"missing; {missing}")
        suite.skipped += 1
        return print(f"skip  {name:6}  runtime is missing; {missing}")
    except subprocess.CalledProcessError as error:
        return suite.fail("build", str(error))

    failed_before = suite.failed
    with tempfile.TemporaryDirectory(prefix=f"leadsbot-{name}-") as folder, tempfile.TemporaryFile() as log:
        try:
            run_receiver(suite, receiver, Path(folder), log)
        except Exception as error:
            suite.fail("run", f"{type(error).__name__}: {error}")
        if suite.failed > failed_before:
            log.seek(0)
            print(f"---- stderr of {name}, its end ----\n" + log.read().decode(errors="replace")[-4000:], flush=True)


if __name__ == "__main__":
    sys.exit(main())
