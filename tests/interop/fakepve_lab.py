"""Runs fakepve, an independent Proxmox VE API, as a process of its own and does to it what a test asks for.

It reads one JSON object a line. The first describes the lab:
    {"nodes": [..], "guests": [{"kind", "vmid", "name", "node", "status", "config", "agent"?}], "tokens": {id: secret},
     "rights": {user: [[path, [privilege, ..]], ..]}}
and is answered with {"url", "fingerprint"}. Each later one does one thing and is answered with {} or what
it asked for. At the end of the input the process ends, so it never outlives its test.

fakepve is installed beside this project by its tests (AGPL-3.0-or-later) and is no part of it.
"""

import asyncio
import hashlib
import json
import sys
import tempfile

from fakepve import FakePve
from fakepve.certs import make_cert


def add_guest(pve, row):
    """Adds a guest as the test describes it."""
    if row["kind"] == "lxc":
        pve.add_ct(
            row["vmid"],
            row["name"],
            node=row["node"],
            status=row["status"],
            config=row.get("config", {}),
            template=row.get("template", False),
        )
        return
    vm = pve.add_vm(
        row["vmid"],
        row["name"],
        node=row["node"],
        status=row["status"],
        config=row.get("config", {}),
        template=row.get("template", False),
    )
    vm.agent = row.get("agent")


def set_rights(pve, rights):
    """Replaces all rights; None lets everybody do everything."""
    pve.acl = None if rights is None else {}
    for user, grants in (rights or {}).items():
        for path, privileges in grants:
            pve.grant(user, path, *privileges)


def remove(pve, vmid):
    """Destroys a guest without a task."""
    pve.vms = [vm for vm in pve.vms if vm.vmid != vmid]
    pve.cts = [ct for ct in pve.cts if ct.vmid != vmid]


def find(pve, vmid):
    """A guest of either kind."""
    return next(guest for guest in [*pve.vms, *pve.cts] if guest.vmid == vmid)


def act(pve, command):
    """Does one thing; what it returns is the answer."""
    what = command["do"]
    if what == "offline":
        pve.set_node_offline(command["node"], command["offline"])
    elif what == "rights":
        set_rights(pve, command["rights"])
    elif what == "tokens":
        pve.apitokens = command["tokens"]
    elif what == "remove":
        remove(pve, command["vmid"])
    elif what == "add":
        add_guest(pve, command["guest"])
    elif what == "status":
        guest = find(pve, command["vmid"])
        guest.status = command["status"]
        if hasattr(guest, "qmpstatus"):
            guest.qmpstatus = command["status"]
    elif what == "network":
        pve.network.update(command["network"])
    elif what == "lock":
        guest = find(pve, command["vmid"])
        guest.lock = command["lock"]
        guest.config["lock"] = command["lock"]
    elif what == "config":
        find(pve, command["vmid"]).config.update(command["config"])
    elif what == "snapshot":
        guest = find(pve, command["vmid"])
        guest.snapshots[command["name"]] = {**guest.config, "snaptime": 1700000000}
        guest.config["parent"] = command["name"]
    elif what == "ha":
        find(pve, command["vmid"]).ha_state = command["state"]
    elif what == "quorum":
        pve.quorate = command["quorate"]
    elif what == "requests":
        seen = [[method, path] for method, path, _ in pve.requests]
        pve.requests.clear()
        return {"requests": seen}
    else:
        raise ValueError(f"unknown command {what!r}")
    return {}


def say(answer):
    """One answer, one line."""
    print(json.dumps(answer), flush=True)


async def main():
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=16 * 1024 * 1024)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    lab = json.loads(await lines.readline())

    pve = FakePve(host="127.0.0.1", port=0)
    for node in lab["nodes"]:
        pve.add_node(node)
    if "pve1" not in lab["nodes"]:
        del pve.nodes["pve1"]
    for row in lab["guests"]:
        add_guest(pve, row)
    pve.apitokens = lab["tokens"]
    set_rights(pve, lab["rights"])

    with tempfile.TemporaryDirectory(prefix="fakepve-") as folder:
        certificate, key, der = make_cert(folder, hosts=("127.0.0.1",))
        await pve.start(certificate, key)
        digest = hashlib.sha256(der).hexdigest().upper()
        fingerprint = ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))
        say({"url": pve.url, "fingerprint": fingerprint})
        while line := await lines.readline():
            say(act(pve, json.loads(line)))
        await pve.stop()


asyncio.run(main())
