"""An object store for tests: one bucket, PUT only. It takes an object only if Amazon's own library (botocore) makes the same signature of
the request, and answers everything else with the codes of Amazon S3. Arguments: port, folder, bucket, access key, secret key."""

import base64
import hashlib
import os
import sys
import time
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

PORT, FOLDER, BUCKET, ACCESS_KEY, SECRET_KEY = sys.argv[1:]


def fault(handler, body):
    """The status and the code of what is wrong with a request; None: nothing."""
    url = urlsplit(handler.path)
    query = dict(parse_qsl(url.query, strict_parsing=True))
    given = query.pop("X-Amz-Signature", None)
    if given is None or query.get("X-Amz-Algorithm") != "AWS4-HMAC-SHA256":
        return 403, "AccessDenied"
    key, day, region, service, end = query["X-Amz-Credential"].split("/")
    if key != ACCESS_KEY:
        return 403, "InvalidAccessKeyId"
    signed_at = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
    if abs(time.time() - signed_at.timestamp()) > 900 or int(query["X-Amz-Expires"]) > 604800:
        return 403, "RequestTimeTooSkewed"
    if region != "eu-central-1" or (service, end, day) != ("s3", "aws4_request", signed_at.strftime("%Y%m%d")):
        return 400, "AuthorizationQueryParametersError"
    names = query["X-Amz-SignedHeaders"].split(";")
    headers = {name: handler.headers[name] for name in names if name != "host"}
    # What is not signed could be changed on the way.
    if "host" not in names or any(n not in names for n in map(str.lower, handler.headers) if n.startswith(("x-amz-", "content-md5"))):
        return 403, "SignatureDoesNotMatch"
    request = AWSRequest("PUT", f"http://{handler.headers['host']}{url.path}?{urlencode(query)}", headers)
    request.context["timestamp"] = query["X-Amz-Date"]
    auth = S3SigV4QueryAuth(Credentials(ACCESS_KEY, SECRET_KEY), service, region)
    ours = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    if ours != given:
        return 403, "SignatureDoesNotMatch"
    if handler.headers["content-md5"] != base64.b64encode(hashlib.md5(body).digest()).decode():
        return 400, "BadDigest"
    if url.path.split("/")[1] != BUCKET:
        return 404, "NoSuchBucket"
    return None


class Store(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        wrong = fault(self, body)
        if wrong is None:
            name = os.path.join(FOLDER, unquote(urlsplit(self.path).path).replace("/", "%"))
            with open(f"{name}.part", "wb") as file:
                file.write(body)
            os.rename(f"{name}.part", f"{name}.object")
            return self.answer(200, b"")
        status, code = wrong
        xml = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>no</Message></Error>'
        return self.answer(status, xml.encode())

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(PORT)), Store).serve_forever()
