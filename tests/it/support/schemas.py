"""Holds a request, as `leadsbotd --json preview` prints it on standard input, against what the service itself publishes: the models of its
official client, or its API's own description. The service is the one argument. Exits with a sentence when the request does not fit."""

import json
import os
import sys
from urllib.parse import parse_qs, unquote, urlsplit


def hubspot(request, body):
    from hubspot.crm.contacts import BatchInputSimplePublicObjectBatchInputUpsert as Batch
    from hubspot.crm.contacts import SimplePublicObjectBatchInputUpsert as Input

    known = {theirs: ours for ours, theirs in Input.attribute_map.items()}
    inputs = []
    for one in body.pop("inputs"):
        unknown = set(one) - set(known)
        assert not unknown, f"HubSpot's client knows no {unknown}"
        # Its setters refuse what is missing.
        inputs.append(Input(**{known[key]: value for key, value in one.items()}))
    assert Batch(inputs=inputs).inputs and not body
    assert all(isinstance(v, str) for one in inputs for v in one.properties.values())


def slack(request, body):
    from slack_sdk.models.blocks import Block

    for block in body["blocks"]:
        parsed = Block.parse(block)
        assert parsed is not None, f"Slack's client knows no block like {block}"
        parsed.validate_json()
        told = parsed.to_dict()
        lost = set(block) - set(told)
        assert not lost and set(block["text"]) == set(told["text"]), f"Slack's client does not keep all of {block}: {told}"


def google_sheets(request, body):
    import googleapiclient

    folder = os.path.join(os.path.dirname(googleapiclient.__file__), "discovery_cache", "documents")
    with open(os.path.join(folder, "sheets.v4.json"), encoding="utf-8") as file:
        api = json.load(file)
    method = api["resources"]["spreadsheets"]["resources"]["values"]["methods"]["append"]
    url = urlsplit(request["to"])
    assert f"{url.scheme}://{url.netloc}/" == api["rootUrl"], url
    assert request["verb"] == method["httpMethod"]
    before, between, after = method["flatPath"].replace("{spreadsheetId}", "\0").replace("{range}", "\0").split("\0")
    path = unquote(url.path).lstrip("/")
    assert path.startswith(before) and between in path and path.endswith(after), path
    for name, values in parse_qs(url.query).items():
        parameter = method["parameters"][name]
        assert parameter["location"] == "query" and all(v in parameter["enum"] for v in values), name
    schema = api["schemas"][method["request"]["$ref"]]["properties"]
    assert set(body) <= set(schema), f"Google knows no {set(body) - set(schema)}"
    assert body["majorDimension"] in schema["majorDimension"]["enum"]
    assert all(isinstance(row, list) for row in body["values"])


def mailchimp(request, body):
    import mailchimp_marketing
    import requests

    asked = {}

    def put(url, **how):
        asked.update(url=url, body=json.loads(how["data"]), query=how.get("params") or [])
        answer = requests.Response()
        answer.status_code, answer._content = 200, b"{}"
        answer.headers["content-type"] = "application/json"
        return answer

    requests.put = put
    ours = urlsplit(request["to"])
    server = ours.netloc.split(".")[0]
    member, of, audience = (ours.path.split("/")[at] for at in (5, 4, 3))
    assert of == "members", ours.path
    client = mailchimp_marketing.Client()
    client.set_config({"api_key": "key", "server": server})
    query = {name: values[0] for name, values in parse_qs(ours.query).items()}
    client.lists.set_list_member(audience, member, body, **query)
    theirs = urlsplit(asked["url"])
    assert request["verb"] == "PUT" and (ours.netloc, ours.path) == (theirs.netloc, theirs.path), (ours, theirs)
    assert asked["body"] == body and dict(asked["query"]) == query, asked


def pagerduty(request, body):
    import pagerduty

    asked = {}

    def post(url, json):
        asked.update(url=url, body=json)
        raise InterruptedError

    client = pagerduty.EventsApiV2Client(body.pop("routing_key"))
    client.post = post
    action, key, rest = body.pop("event_action"), body.pop("dedup_key"), body
    try:
        client.send_event(action, key, **rest)
    except InterruptedError:
        pass
    assert request["verb"] == "POST" and asked["url"] == "/v2/enqueue" and request["to"] == client.url, (asked, client.url)
    assert asked["body"] == {"event_action": action, "dedup_key": key, **rest}, asked


def zoho(request, body):
    import zohocrmsdk

    folder = os.path.join(os.path.dirname(zohocrmsdk.__file__), "src")
    with open(os.path.join(folder, "json_details.json"), encoding="utf-8") as file:
        described = json.load(file)["zohocrmsdk.src.com.zoho.crm.api.record.BodyWrapper"]
    known = {field["name"] for field in described.values()}
    assert set(body) <= known, f"Zoho's client knows no {set(body) - known}"
    assert urlsplit(request["to"]).path == "/crm/v8/Leads/upsert" and request["verb"] == "POST"


CHECKS = {
    "hubspot": hubspot,
    "slack": slack,
    "google_sheets": google_sheets,
    "mailchimp": mailchimp,
    "pagerduty": pagerduty,
    "zoho": zoho,
}

request = json.load(sys.stdin)["request"]
CHECKS[sys.argv[1]](request, json.loads(request["body"]))
