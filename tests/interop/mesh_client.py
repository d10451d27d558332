"""An agent somebody else wrote: a plain nats-py client with nothing of ours but a key.

It reads one JSON object from standard input:
    {"url", "ca_file"?, "name", "seed_file", "key", "feed_messages"}
and prints one JSON object a line, each with one word that says what it is:
    services   what it found by $SRV.INFO
    state      the answer of nhi.state.get.<name> for `key`
    following  it has subscribed the change feed; the test may change something now
    feed       one message of the change feed, `feed_messages` of them
    refused    what the server said to things this identity may not do
"""

import asyncio
import json
import ssl
import sys

import nats

PATIENCE_SECONDS = 20


def say(what, value):
    """One finding, one line."""
    print(json.dumps({what: value}), flush=True)


async def connect(plan, errors):
    """Connects with the key alone: no user, no password, an inbox prefix of its own."""

    async def on_error(error):
        await errors.put(str(error))

    tls = ssl.create_default_context(cafile=plan["ca_file"]) if plan.get("ca_file") else None
    return await nats.connect(
        plan["url"],
        name=plan["name"],
        nkeys_seed=plan["seed_file"],
        inbox_prefix=f"_INBOX_{plan['name']}".encode(),
        error_cb=on_error,
        allow_reconnect=False,
        connect_timeout=PATIENCE_SECONDS,
        **({"tls": tls} if tls else {}),
    )


async def discover(client):
    """Every service that answers $SRV.INFO, until none has for half a second."""
    inbox = client.new_inbox()
    answers = await client.subscribe(inbox)
    await client.publish("$SRV.INFO", b"", reply=inbox)
    found = {}
    try:
        while True:
            patience = 0.5 if found else PATIENCE_SECONDS
            info = json.loads((await answers.next_msg(timeout=patience)).data)
            endpoints = {}
            for endpoint in info.get("endpoints") or []:
                metadata = endpoint["metadata"]
                endpoints[endpoint["name"]] = {
                    "subject": endpoint["subject"],
                    "effect": metadata["effect"],
                    "description": metadata["description"],
                    "request_schema": json.loads(metadata["request_schema"]),
                    "response_schema": json.loads(metadata["response_schema"]),
                }
            found[info["name"]] = {"type": info["type"], "version": info["version"], "endpoints": endpoints}
    except asyncio.TimeoutError:
        await answers.unsubscribe()
        return found


async def follow(client, messages):
    """The change feed, with the headers that tell gaps and batches."""
    feed = await client.subscribe("nhi-pub.state.>")
    await client.flush()
    say("following", True)
    for _ in range(messages):
        message = await feed.next_msg(timeout=PATIENCE_SECONDS)
        say("feed", {"subject": message.subject, "headers": dict(message.headers or {}), "size": len(message.data)})


async def overstep(client, name, errors):
    """Things this identity may not do: each must be refused by the server."""
    attempts = {
        "$KV.nhi-state.vm.home.100": False,
        "nhi.state.get.owner": False,
        f"nhi.act.approve.{name}": False,
        "$JS.API.STREAM.PURGE.KV_nhi-state": False,
    }
    for subject in attempts:
        await client.publish(subject, b"{}")
    try:
        while not all(attempts.values()):
            error = await asyncio.wait_for(errors.get(), PATIENCE_SECONDS)
            for subject in attempts:
                attempts[subject] |= subject.lower() in error.lower()
    except asyncio.TimeoutError:
        pass
    say("refused", attempts)


async def main():
    plan = json.loads(sys.stdin.readline())
    errors = asyncio.Queue()
    client = await connect(plan, errors)
    name = plan["name"]
    say("services", await discover(client))
    request = json.dumps({"select": [plan["key"]]}).encode()
    answer = await client.request(f"nhi.state.get.{name}", request, timeout=PATIENCE_SECONDS)
    say("state", {"headers": dict(answer.headers or {}), "body": json.loads(answer.data)})
    await overstep(client, name, errors)
    await follow(client, plan["feed_messages"])
    await client.drain()


asyncio.run(main())
