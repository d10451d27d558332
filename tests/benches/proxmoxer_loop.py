"""Reads a whole Proxmox VE with proxmoxer as a script does: one call after the other over one kept connection.

    PVE_TOKEN_SECRET=… python3 proxmoxer_loop.py URL CA_FILE USER@REALM!TOKEN

It makes the same reads as our scanner's first pass and prints {"seconds": …, "guests": …}.
"""

import json
import os
import sys
import time
from urllib.parse import urlsplit

from proxmoxer import ProxmoxAPI
from proxmoxer.core import ResourceException


def silent(read):
    """A guest without an agent, or one that does not run, answers with an error. That is an answer too."""
    try:
        return read()
    except ResourceException:
        return None


def read_guest(kind, guest, row):
    """Configuration, snapshots and addresses of one guest."""
    guest.config.get(current=1)
    guest.snapshot.get()
    if row["status"] != "running":
        return
    if kind == "qemu":
        silent(lambda: guest.agent("network-get-interfaces").get())
    else:
        silent(guest.interfaces.get)


def read_all(pve):
    """Everything once; says how many guests there were."""
    pve.cluster.resources.get()
    pve.cluster.status.get()
    pve.access.permissions.get()
    nodes = pve.nodes.get()
    pve.cluster.ha.resources.get()
    guests = 0
    for row in nodes:
        node = pve.nodes(row["node"])
        node.status.get()
        storages = node.storage.get()
        for kind, rows in (("qemu", node.qemu.get(full=1)), ("lxc", node.lxc.get())):
            for guest in rows:
                read_guest(kind, getattr(node, kind)(guest["vmid"]), guest)
                guests += 1
        for storage in storages:
            if "backup" in storage["content"] and not storage.get("shared"):
                silent(lambda: node.storage(storage["storage"]).content.get(content="backup"))
    return guests


def main():
    url, ca_file, token = sys.argv[1:]
    user, name = token.split("!", 1)
    address = urlsplit(url)
    pve = ProxmoxAPI(
        address.hostname,
        port=address.port,
        user=user,
        token_name=name,
        token_value=os.environ["PVE_TOKEN_SECRET"],
        verify_ssl=ca_file,
        timeout=60,
    )
    begin = time.perf_counter()
    guests = read_all(pve)
    print(json.dumps({"seconds": time.perf_counter() - begin, "guests": guests}))


main()
