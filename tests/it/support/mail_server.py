"""A mail server for tests, made of aiosmtpd: keeps every mail as a file, read by Python's email package, and does as it is ordered.

mail_server.py FOLDER OPTIONS, where OPTIONS is JSON: port, tls ("none", "starttls", "wrapped"), cert, key, user, password,
mechanisms. FOLDER/orders.json may change at any time: {"MAIL": "451 later", "RCPT": {"a@example.com": "550 no"}, "DATA": "554 no",
"poison": "text of mails that are refused", "hang": "DATA", "after": "drop"}; an answer "hang" never comes.
"""

import asyncio
import email
import email.policy
import json
import os
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

folder, options = sys.argv[1], json.loads(sys.argv[2])


def orders():
    try:
        with open(os.path.join(folder, "orders.json"), encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return {}


async def ordered(answer):
    if answer == "hang":
        await asyncio.sleep(3600)
    return answer


class Handler:
    sessions = 0

    async def handle_EHLO(self, server, session, envelope, hostname, responses):
        session.host_name = hostname
        Handler.sessions += 1
        session.number = getattr(session, "number", Handler.sessions)
        return responses

    async def handle_MAIL(self, server, session, envelope, address, mail_options):
        answer = await ordered(orders().get("MAIL"))
        if answer:
            return answer
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):
        answer = await ordered(orders().get("RCPT", {}).get(address))
        if answer:
            return answer
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        order = orders()
        answer = await ordered(order.get("DATA"))
        if answer:
            return answer
        if "poison" in order and order["poison"].encode() in envelope.content:
            return "554 5.6.0 not with these words"
        keep(session, envelope)
        if order.get("after") == "drop":
            os.remove(os.path.join(folder, "orders.json"))
            server.transport.abort()
        return "250 2.0.0 kept"


def keep(session, envelope):
    mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
    leaves = [part for part in mail.walk() if not part.is_multipart()]
    kept = {
        "from": envelope.mail_from,
        "to": envelope.rcpt_tos,
        "session": session.number,
        "encrypted": session.ssl is not None or options["tls"] == "wrapped",
        "user": getattr(session, "auth_data", None),
        "names": mail.keys(),
        "headers": {name.lower(): str(value) for name, value in mail.items()},
        "type": mail.get_content_type(),
        "parts": [
            {
                "type": part.get_content_type(),
                "charset": part.get_content_charset(),
                "text": part.get_content(),
                "defects": [repr(defect) for defect in part.defects],
            }
            for part in leaves
        ],
        "defects": [repr(d) for d in mail.defects] + [repr(d) for value in mail.values() for d in value.defects],
        "longest": max(len(line) for line in envelope.content.split(b"\r\n")),
        "bytes": envelope.content.decode("ascii"),
    }
    name = os.path.join(folder, "%06d" % len([n for n in os.listdir(folder) if n.endswith(".mail.json")]))
    with open(name + ".part", "w", encoding="utf-8") as file:
        json.dump(kept, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(name + ".part", name + ".mail.json")


def authenticate(server, session, envelope, mechanism, data):
    assert isinstance(data, LoginPassword)
    right = (data.login.decode(), data.password.decode()) == (options["user"], options["password"])
    return AuthResult(success=right, handled=False, auth_data=f"{mechanism} {data.login.decode()}")


async def main():
    context = None
    if options["tls"] != "none":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(options["cert"], options["key"])
    known = options.get("mechanisms", ["PLAIN", "LOGIN"])

    def session():
        return SMTP(
            Handler(),
            hostname="mail.test",
            data_size_limit=1 << 22,
            tls_context=context if options["tls"] == "starttls" else None,
            require_starttls=options["tls"] == "starttls",
            authenticator=authenticate if "user" in options else None,
            auth_required="user" in options,
            auth_require_tls=options["tls"] == "starttls",
            auth_exclude_mechanism=[m for m in ["PLAIN", "LOGIN"] if m not in known],
            loop=asyncio.get_running_loop(),
        )

    wrapped = context if options["tls"] == "wrapped" else None
    server = await asyncio.get_running_loop().create_server(
        session, "127.0.0.1", options.get("port", 0), ssl=wrapped, reuse_address=True
    )
    print("listening on %d" % server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
