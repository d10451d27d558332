#!/usr/bin/env python3
"""A guest's whole life on a simulated lab, seen through proxmoxer, a client that is not ours.

It knows nothing of the simulator but its address: what it checks are facts about Proxmox VE. Environment:

    NHI_SIM_URL       https://127.0.0.1:PORT
    NHI_SIM_CA        path of the cluster authority's certificate
    NHI_SIM_USER      root@pam
    NHI_SIM_PASSWORD  its password

Needs `proxmoxer` and `requests`. The lab must hold the demo home, fresh. Give it a short task time; the script
waits for states, never for a time. Ends with 0 when every fact holds, with 1 when one does not.
"""

import os
import socket
import ssl
import sys
import time
from urllib.parse import quote, urlsplit

import requests
from proxmoxer import ProxmoxAPI
from proxmoxer.core import AuthenticationError, ResourceException
from proxmoxer.tools import Tasks

URL = os.environ["NHI_SIM_URL"].rstrip("/")
CA = os.environ["NHI_SIM_CA"]
USER = os.environ["NHI_SIM_USER"]
PASSWORD = os.environ["NHI_SIM_PASSWORD"]
HOST, PORT = urlsplit(URL).hostname, urlsplit(URL).port
DEADLINE_S = 60

facts = 0
wrong = []


def check(fact, holds, seen=None):
    """Notes whether a fact holds."""
    global facts
    facts += 1
    print(("ok" if holds else "not ok"), facts, "-", fact, "" if holds else f"(saw {seen!r})", flush=True)
    if not holds:
        wrong.append(fact)


def connect(**login):
    return ProxmoxAPI(HOST, port=PORT, verify_ssl=CA, timeout=30, **login)


def refused(call, code, text):
    """True when a call ends in this status and its message holds this text."""
    try:
        seen = call()
    except ResourceException as error:
        message = f"{error.status_code} {error.status_message} {error.content} {error.errors}"
        return error.status_code == code and text in message, message
    return False, seen


def check_refused(fact, call, code, text):
    holds, seen = refused(call, code, text)
    check(fact, holds, seen)


def wait_for(what, test):
    """Polls until a test gives something true."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        seen = test()
        if seen:
            return seen
        time.sleep(0.02)
    raise SystemExit(f"waited {DEADLINE_S} s in vain for {what}")


def finish(upid):
    """Waits for a task and gives its exit status."""
    node = Tasks.decode_upid(upid)["node"]
    status = wait_for(
        upid, lambda: (s := api.nodes(node).tasks(upid).status.get())["status"] == "stopped" and s
    )
    return status["exitstatus"]


def row(vmid):
    return next((r for r in api.cluster.resources.get(type="vm") if r["vmid"] == vmid), None)


def basics():
    check("the version has major and minor number", api.version.get()["version"].split(".")[0].isdigit())
    nodes = {n["node"]: n for n in api.nodes.get()}
    check("three nodes are online", [n["status"] for n in nodes.values()] == ["online"] * 3, nodes)
    check("each node shows its certificate's fingerprint", all(len(n["ssl_fingerprint"]) == 95 for n in nodes.values()))
    status = api.cluster.status.get()
    check("the cluster is quorate", [r["quorate"] for r in status if r["type"] == "cluster"] == [1], status)
    check("exactly one node is the local one", sum(r["local"] for r in status if r["type"] == "node") == 1, status)
    check("nextid is a string", isinstance(api.cluster.nextid.get(), str), api.cluster.nextid.get())
    check_refused("nextid of a taken number is 400", lambda: api.cluster.nextid.get(vmid=100), 400, "already exists")
    kinds = {r["type"] for r in api.cluster.resources.get()}
    check("resources hold nodes, guests, storages and pools", {"node", "qemu", "lxc", "storage", "pool"} <= kinds, kinds)
    check_refused("an unknown path is 501", lambda: api.nodes("pve1").nonsense.get(), 501, "not implemented")
    check_refused("an unknown node is 500", lambda: api.nodes("nowhere").qemu.get(), 500, "hostname lookup 'nowhere' failed")
    check_refused(
        "an unknown guest is 500 and says which file", lambda: api.nodes("pve1").qemu(4711).config.get(), 500,
        "Configuration file 'nodes/pve1/qemu-server/4711.conf' does not exist",
    )


def create():
    check_refused(
        "a missing parameter is 400 and named", lambda: node1.qemu.post(name="x"), 400, "property is missing and it is not optional"
    )
    check_refused("an unknown parameter is 400", lambda: node1.qemu.post(vmid=150, nonsense=1), 400, "not defined in schema")
    upid = node1.qemu.post(
        vmid=150, name="life", cores=2, memory=2048, scsi0="nas:8", net0="virtio,bridge=vmbr0", agent="1",
        pool="lab", tags="Life;lab", ostype="l26",
    )
    decoded = Tasks.decode_upid(upid)
    check("creating answers with a UPID of type qmcreate", decoded["type"] == "qmcreate" and decoded["id"] == "150", decoded)
    check("creating ends well", finish(upid) == "OK")
    config = guest.config.get()
    check("tags are stored in lower case", config["tags"] == "life;lab", config["tags"])
    check("memory is a string, cores a number", config["memory"] == "2048" and config["cores"] == 2, config)
    check("the disk is a volume of the guest", config["scsi0"].startswith("nas:150/vm-150-disk-0.qcow2"), config["scsi0"])
    check("the guest got an identity", "uuid=" in config["smbios1"] and "ctime=" in config["meta"], config)
    check("the guest is in its pool", any(m.get("vmid") == 150 for m in api.pools("lab").get()["members"]))
    check_refused("the number is taken now", lambda: node1.qemu.post(vmid=150, name="again"), 500, "VM 150 already exists on node 'pve1'")
    fresh = row(150)
    check("a fresh guest is listed at once", fresh is not None)
    check("it has no name until statistics were told", fresh["status"] == "unknown" and "name" not in fresh or fresh.get("name") == "life", fresh)


def configure():
    before = guest.config.get()
    check_refused(
        "a stale digest is refused", lambda: guest.config.put(cores=4, digest="0" * 40), 500, "detected modified configuration"
    )
    check("a change with the right digest is taken", guest.config.put(cores=4, digest=before["digest"]) is None)
    after = guest.config.get()
    check("the change is there and the digest another", after["cores"] == 4 and after["digest"] != before["digest"], after)
    check("an asynchronous change is a task", finish(guest.config.post(description="hello")) == "OK")
    check("and done", guest.config.get()["description"] == "hello")
    check("a disk grows", finish(guest.resize.put(disk="scsi0", size="+2G")) == "OK")
    check("by what was asked", "size=10G" in guest.config.get()["scsi0"], guest.config.get()["scsi0"])
    check_refused("a disk never shrinks", lambda: guest.resize.put(disk="scsi0", size="1G"), 500, "shrinking disks is not supported")


def power():
    check("starting ends well", finish(guest.status.start.post()) == "OK")
    now = guest.status.current.get()
    check("it runs and has a process", now["status"] == "running" and now["pid"] > 0 and now["qmpstatus"] == "running", now)
    check("starting twice fails in the task", finish(guest.status.start.post()) == "VM 150 already running")
    check("changing cores of a running guest waits", guest.config.put(cores=3) is None)
    check("current shows what is", guest.config.get(current=1)["cores"] == 4)
    check("config shows what will be", guest.config.get()["cores"] == 3)
    pending = {r["key"]: r for r in guest.pending.get()}
    check("pending shows both", pending["cores"].get("value") == 4 and str(pending["cores"].get("pending")) == "3", pending["cores"])
    check("suspending ends well", finish(guest.status.suspend.post()) == "OK")
    now = guest.status.current.get()
    check("a paused guest is running to the status", now["status"] == "running" and now["qmpstatus"] == "paused", now)
    check_refused("a paused guest cannot be shut down", lambda: guest.status.shutdown.post(), 500, "VM is paused - cannot shutdown")
    check("resuming ends well", finish(guest.status.resume.post()) == "OK")
    check_refused("a running guest cannot be destroyed", lambda: guest.delete(), 500, "VM 150 is running - destroy failed")
    check_refused("skiplock is for root@pam only, and it is", lambda: token_api().nodes("pve1").qemu(150).status.stop.post(skiplock=1), 403, "Permission check failed")
    check("rebooting ends well", finish(guest.status.reboot.post()) == "OK")
    check("what waited is in effect now", guest.config.get(current=1)["cores"] == 3)
    agent = refused(lambda: guest.agent("network-get-interfaces").get(), 500, "QEMU guest agent is not running")
    check("without an agent inside PVE says so", agent[0], agent[1])


def snapshots():
    check_refused("a bad snapshot name is 400", lambda: guest.snapshot.post(snapname="1bad"), 400, "invalid configuration ID")
    check_refused("a reserved snapshot name is refused", lambda: guest.snapshot.post(snapname="current"), 500, "reserved name")
    check("a snapshot is taken", finish(guest.snapshot.post(snapname="first", description="one")) == "OK")
    check("its name is taken", finish(guest.snapshot.post(snapname="first")) == "snapshot name 'first' already used")
    guest.config.put(protection=1, tags="life;kept", description="after")
    listed = guest.snapshot.get()
    check("the list ends with the pseudo entry current", listed[-1]["name"] == "current" and "snaptime" not in listed[-1], listed)
    check("whose parent is the snapshot", listed[-1]["parent"] == "first", listed)
    check_refused("protection guards against destroying", lambda: guest.delete(), 500, "can't remove VM 150 - protection mode enabled")
    check("rolling back ignores protection", finish(guest.snapshot("first").rollback.post()) == "OK")
    config = guest.config.get()
    check("it stopped the running guest", guest.status.current.get()["status"] == "stopped")
    check("protection is gone, tags are old", "protection" not in config and config["tags"] == "life;lab", config)
    check("the description stayed", config["description"] == "after", config.get("description"))
    check("a snapshot is removed", finish(guest.snapshot("first").delete()) == "OK")
    check("removing it twice fails in the task", finish(guest.snapshot("first").delete()) == "snapshot 'first' does not exist")


def copies():
    check_refused("linking needs a template", lambda: guest.clone.post(newid=151, full=0), 500, "Linked clone feature is not supported")
    upid = guest.clone.post(newid=151, name="copy", pool="lab")
    busy = finish(guest.status.start.post())
    check("the source cannot start while it is copied, or waits", busy in ("OK", "can't lock file '/var/lock/qemu-server/lock-150.conf' - got timeout"), busy)
    check("copying ends well", finish(upid) == "OK")
    copy, source = node1.qemu(151).config.get(), guest.config.get()
    check("the copy has another identity", copy["smbios1"] != source["smbios1"] and copy["vmgenid"] != source["vmgenid"])
    check("another hardware address", copy["net0"] != source["net0"], copy["net0"])
    check("and the same tags", copy["tags"] == source["tags"])
    check("a copy becomes a template", finish(node1.qemu(151).template.post()) == "OK")
    check("its disk is a base image", ":151/base-151-disk-0" in node1.qemu(151).config.get()["scsi0"])
    check("a template does not start", "template" in finish(node1.qemu(151).status.start.post()))
    check("a template is linked to by default", finish(node1.qemu(151).clone.post(newid=152, name="linked")) == "OK")
    check("the link is in the volume's name", "base-151-disk-0" in node1.qemu(152).config.get()["scsi0"])
    in_use = finish(node1.qemu(151).delete())
    check("a template in use is not destroyed, says its task", "still in use by linked clones" in in_use, in_use)
    check("linked clones go first", finish(node1.qemu(152).delete()) == "OK")
    check("then the template", finish(node1.qemu(151).delete(purge=1)) == "OK")


def moves():
    if guest.status.current.get()["status"] == "stopped":
        finish(guest.status.start.post())
    check_refused("a running guest does not move offline", lambda: guest.migrate.post(target="pve2"), 500, "can't migrate running VM without --online")
    check_refused("nor to itself", lambda: guest.migrate.post(target="pve1", online=1), 400, "target is local node")
    check_refused("nor to nowhere", lambda: guest.migrate.post(target="pve9", online=1), 500, "no such cluster node 'pve9'")
    upid = guest.migrate.post(target="pve2", online=1)
    check("while it moves it is locked", guest.config.get().get("lock") == "migrate", guest.config.get().get("lock"))
    check("a change is refused meanwhile", *refused(lambda: guest.config.put(cores=1), 500, "VM is locked (migrate)"))
    check("moving ends well", finish(upid) == "OK")
    check_refused(
        "the old node has no file of it", lambda: guest.config.get(), 500, "Configuration file 'nodes/pve1/qemu-server/150.conf' does not exist"
    )
    moved = api.nodes("pve2").qemu(150)
    check("the new one has, and it runs", moved.status.current.get()["status"] == "running")
    disks = api.nodes("pve3").qemu(103).migrate.get()
    check("the check before names local disks", [d["drivename"] for d in disks["local_disks"]] == ["scsi0"], disks)
    finish(moved.status.stop.post())
    check("a stopped one moves back", finish(moved.migrate.post(target="pve1")) == "OK")


def backups():
    check("guests of other nodes are left out silently", node1.vzdump.post(vmid=103, storage="nas") == "OK")
    upid = node1.vzdump.post(vmid=150, storage="nas", mode="snapshot", compress="zstd", **{"notes-template": "{{guestname}}"})
    check("while it is backed up it is locked", guest.config.get().get("lock") == "backup")
    check("a start during a backup fails in the task", finish(guest.status.start.post()) == "VM is locked (backup)")
    check("the backup ends well", finish(upid) == "OK")
    found = [v for v in node1.storage("nas").content.get(content="backup") if v.get("vmid") == 150]
    check("the archive is there", len(found) == 1 and found[0]["notes"] == "life", found)
    check("an auditor's token does not see it", token_api("PVEAuditor").nodes("pve1").storage("nas").content.get(content="backup") == [])
    check("a restore over nothing makes a guest", finish(node1.qemu.post(vmid=153, archive=found[0]["volid"], storage="local-lvm")) == "OK")
    check("with the old name", node1.qemu(153).config.get()["name"] == "life")
    finish(node1.qemu(153).delete())
    volume = node1.storage("nas").content(quote(found[0]["volid"], safe=""))
    check("the archive is removed", finish(volume.delete()) == "OK")


def high_availability():
    api.cluster.ha.resources.post(sid="vm:150", state="started")
    wait_for("HA to start it", lambda: guest.status.current.get()["status"] == "running")
    check("the status says it is managed", guest.status.current.get()["ha"]["managed"] == 1)
    upid = guest.status.stop.post()
    check("stopping a managed guest only files a request", Tasks.decode_upid(upid)["type"] == "hastop")
    check("whose task is done", finish(upid) == "OK")
    check("while the guest still runs", guest.status.current.get()["status"] == "running")
    wait_for("HA to stop it", lambda: guest.status.current.get()["status"] == "stopped")
    check_refused("a managed guest is not destroyed without purge", lambda: guest.delete(), 500, "used in HA resources and purge parameter not set")
    api.cluster.ha.resources("vm:150").delete()


def container():
    template = "local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst"
    upid = node1.lxc.post(
        vmid=160, ostemplate=template, hostname="little", memory=256, rootfs="local-lvm:2",
        net0="name=eth0,bridge=vmbr0,ip=dhcp", unprivileged=1, start=1,
    )
    check("a container is made", finish(upid) == "OK")
    ct = node1.lxc(160)
    wait_for("the container to start", lambda: ct.status.current.get()["status"] == "running")
    names = [i["name"] for i in ct.interfaces.get()]
    check("its interfaces can be read without an agent", "eth0" in names, names)
    check_refused("a running container does not start again", lambda: ct.status.start.post(), 500, "CT 160 already running")
    check_refused("a running container is copied from a snapshot only", lambda: ct.clone.post(newid=161, hostname="x"), 500, "running container")
    check("a container's snapshot", finish(ct.snapshot.post(snapname="s1")) == "OK")
    check("bind mounts forbid snapshots", finish(api.nodes("pve2").lxc(204).snapshot.post(snapname="s1")) == "snapshot feature is not available")
    check("it stops", finish(ct.status.stop.post()) == "OK")
    check_refused("a stopped container does not stop", lambda: ct.status.stop.post(), 500, "CT 160 not running")
    check("interfaces of a stopped container are null", ct.interfaces.get() is None)
    finish(ct.status.start.post())
    check_refused("a running container is not destroyed", lambda: ct.delete(), 500, "unable to destroy CT 160 - container is running")
    check("but by force", finish(ct.delete(force=1)) == "OK")


def token_api(role=None):
    """A separated token of a user who may everything; without a role it may nothing."""
    name = f"t{time.monotonic_ns()}"
    made = api.access.users("root@pam").token(name).post(privsep=1)
    if role:
        api.access.acl.put(path="/", roles=role, tokens=made["full-tokenid"])
    return connect(user="root@pam", token_name=name, token_value=made["value"])


def rights():
    nobody = token_api()
    check("a separated token without roles sees no guest, and no error", nobody.cluster.resources.get(type="vm") == [])
    check("and no right at all", nobody.access.permissions.get() == {}, nobody.access.permissions.get())
    check("nodes are listed for everybody, bare", all("mem" not in n for n in nobody.nodes.get()), nobody.nodes.get())
    check_refused("cluster status needs Sys.Audit", lambda: nobody.cluster.status.get(), 403, "Permission check failed (/, Sys.Audit)")
    check_refused(
        "a guest needs VM.Audit", lambda: nobody.nodes("pve1").qemu(100).config.get(), 403, "Permission check failed (/vms/100, VM.Audit)"
    )
    auditor = token_api("PVEAuditor")
    check("an auditor sees all guests", len(auditor.cluster.resources.get(type="vm")) == len(api.cluster.resources.get(type="vm")))
    check_refused("and starts none", lambda: auditor.nodes("pve1").qemu(150).status.start.post(), 403, "(/vms/150, VM.PowerMgmt)")
    check_refused("a token makes no token", lambda: auditor.access.users("root@pam").token("x").post(), 403, "not available with API token")
    try:
        wrong_password = connect(user=USER, password="wrong")
        check("a wrong password is refused", False, wrong_password)
    except AuthenticationError:
        check("a wrong password is refused", True)


def transport():
    session = requests.Session()
    # REQUESTS_CA_BUNDLE in the environment would win over the lab's own authority.
    session.trust_env = False
    session.verify = CA
    made = api.access.users("root@pam").token(f"raw{time.monotonic_ns()}").post(privsep=0)
    headers = {"Authorization": f"PVEAPIToken={made['full-tokenid']}={made['value']}"}
    base = URL + "/api2/json"
    check("DELETE with a body is 501", session.delete(base + "/pools/none", data="x=1", headers=headers).status_code == 501)
    check("DELETE with its parameters in the query is heard", session.delete(base + "/pools?poolid=none", headers=headers).status_code == 500)
    check("HEAD is 501", session.head(base + "/version", headers=headers).status_code == 501)
    chunked = session.post(base + "/pools", data=iter([b"poolid=x"]), headers=headers)
    check("a chunked body is 501", chunked.status_code == 501, chunked.status_code)
    text = session.post(base + "/pools", data="poolid=x", headers={**headers, "Content-Type": "text/plain"})
    check("text/plain is 506", text.status_code == 506, text.status_code)
    bad = session.post(base + "/pools", data="{", headers={**headers, "Content-Type": "application/json"})
    check("bad JSON is 500", bad.status_code == 500, bad.status_code)
    nobody = session.get(base + "/version")
    check("without a login the 401 is empty and has no type", nobody.status_code == 401 and nobody.content == b"" and "content-type" not in nobody.headers)
    check("and its reason phrase tells", nobody.reason == "No ticket", nobody.reason)
    fine = session.get(base + "/version", headers=headers)
    check("a good answer keeps the connection", fine.headers["connection"].lower() == "keep-alive", fine.headers)
    check("an error closes it", session.get(base + "/none", headers=headers).headers["connection"] == "close")
    context = ssl.create_default_context(cafile=CA)
    context.check_hostname = False
    context.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection((HOST, PORT)) as raw, context.wrap_socket(raw) as tls:
        check("no protocol is negotiated", tls.selected_alpn_protocol() is None, tls.selected_alpn_protocol())


def end():
    check("it is destroyed", finish(guest.delete(purge=1)) == "OK")
    check("it is gone from the list", all(g["vmid"] != 150 for g in node1.qemu.get()))
    check("and from the pool", all(m.get("vmid") != 150 for m in api.pools("lab").get()["members"]))
    tasks = node1.tasks.get(vmid=150, limit=500)
    kinds = {t["type"] for t in tasks}
    check("its tasks stay in the index", {"qmcreate", "qmstart", "qmsnapshot", "qmclone", "qmigrate", "vzdump", "qmdestroy"} <= kinds, kinds)
    check("failed ones can be asked for", all(t["status"] != "OK" for t in node1.tasks.get(vmid=150, errors=1)))
    check_refused("a thing that is no UPID is 400", lambda: node1.tasks("nonsense").status.get(), 400, "unable to parse worker upid")


api = connect(user=USER, password=PASSWORD)
node1 = api.nodes("pve1")
guest = node1.qemu(150)
for chapter in (basics, create, configure, power, snapshots, copies, moves, backups, high_availability, container, rights, transport, end):
    chapter()
print(f"{facts - len(wrong)} of {facts} facts hold")
for fact in wrong:
    print("wrong:", fact)
sys.exit(1 if wrong else 0)
