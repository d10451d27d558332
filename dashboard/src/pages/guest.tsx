// One guest: what it is, how it does, what happened to it, what can be asked for. Asking makes a plan, or is refused.

import { useState } from "preact/hooks";
import { asRefusal, call, type Refusal } from "../api/client.ts";
import type { Gauges, Guest, Json, PlanRecord, StateRecord } from "../api/types.ts";
import { ago, bytes, percent, share, span, stamp } from "../lib/format.ts";
import { keep as keepAt } from "../store/route.ts";
import { title } from "../lib/key.ts";
import { relations, reach } from "../lib/layout.ts";
import { carriers } from "../lib/services.ts";
import type { Graph } from "../api/types.ts";
import { tick } from "../store/clock.ts";
import { past, shown } from "../store/moment.ts";
import { at, go } from "../store/route.ts";
import { may } from "../store/session.ts";
import { Badge, counts, Dialog, Empty, Fact, Field, Gauge, Loading, Panel, Refused, Status, Unknown } from "../ui/base.tsx";
import { TimeBar } from "../ui/timebar.tsx";
import { gaugeOf, Meter } from "./overview.tsx";
import { History, StaleNote } from "./record.tsx";

export function GuestPage({ id }: { id: string }) {
  const view = shown();
  const record = view?.records.get(id);
  const guest = record?.record as Guest | undefined;
  return (
    <>
      <div class="head">
        <a class="btn quiet square" href={keepAt("#/overview")} aria-label="Back to the overview">‹</a>
        <h1 tabIndex={-1}>{guest?.name || title(id)}</h1>
        <code class="mute">{id}</code>
        {guest && <Status word={guest.status} stale={record?.stale?.reason} />}
        {guest && !at.value && <Actions guest={guest} />}
      </div>
      <TimeBar />
      {!view && past.value?.is !== "refused" && <Loading what="the guest" />}
      {view && !record && <Empty title="There was no such guest at this moment.">Its history below tells when it was seen.</Empty>}
      {record && <StaleNote record={record} />}
      <div class="split even">
        {record && guest && (
          <div class="stack">
            <Facts id={id} record={record} guest={guest} />
            <Network id={id} record={record} guest={guest} />
            <Needs guest={guest} graph={view?.records.get("graph")} />
          </div>
        )}
        <History id={id} revision={record?.revision} />
      </div>
    </>
  );
}

function Facts({ id, record, guest }: { id: string; record: StateRecord; guest: Guest }) {
  const view = shown();
  const live = gaugeOf(record, view?.gauges.get(id));
  const gauges = (live?.record ?? {}) as Gauges;
  const known = counts(live) && guest.status === "running";
  const row = (name: string, value: string | undefined): [string, string | undefined] => [name, value];
  const facts = [
    row("Kind", guest.kind === "lxc" ? "container" : "virtual machine"),
    row("Number", String(guest.vmid)),
    row("Node", guest.node),
    row("Processors", guest.cpus?.toString()),
    row("Memory", bytes(guest.memory_bytes)),
    row("Root disk", bytes(guest.disk_bytes)),
    row("System", guest.os),
    row("Starts at boot", yes(guest.onboot)),
    row("Protected", yes(guest.protection)),
    row("Snapshots", guest.snapshots?.toString()),
    row("Newest backup", backup(guest, tick.value)),
    row("Pool", guest.pool ?? "none"),
    row("Managed by HA", guest.ha ? `${guest.ha.state}${guest.ha.group ? ` (${guest.ha.group})` : ""}` : "no"),
    row("Lock", guest.lock ?? "none"),
  ];
  return (
    <Panel title="What it is" side={<span class="small mute">revision {record.revision} · {stamp(record.at)}</span>}>
      {!at.value && guest.status === "running" && (
        <dl class="meters">
          <Meter name="CPU" of={id} live={live} part={known ? gauges.cpu : undefined} text={`${percent(gauges.cpu) ?? ""} of ${guest.cpus ?? "?"}`} />
          <Meter name="Memory" of={id} live={live} part={known ? share(gauges.mem, guest.memory_bytes) : undefined} text={`${bytes(gauges.mem) ?? ""} of ${bytes(guest.memory_bytes) ?? "?"}`} />
          <div class="meter"><dt>Runs for</dt><dd><Gauge of={id} live={live}>{known && gauges.uptime !== undefined ? span(gauges.uptime * 1000) : undefined}</Gauge></dd></div>
        </dl>
      )}
      <dl class="kv">
        {facts.map(([name, value]) => <div key={name}><dt>{name}</dt><dd><Fact of={id} record={record}>{value}</Fact></dd></div>)}
      </dl>
      {guest.tags?.length ? <p class="tags">{guest.tags.map((tag) => <Badge key={tag}>{tag}</Badge>)}</p> : null}
      {guest.notes && <blockquote class="notes" title="Notes as they stand in Proxmox: text from the lab">{guest.notes}</blockquote>}
    </Panel>
  );
}

function yes(flag: boolean | undefined): string | undefined {
  return flag === undefined ? undefined : flag ? "yes" : "no";
}

function backup(guest: Guest, now: number): string | undefined {
  const told = guest.backups;
  if (told?.kind === "newest" && told.at) return `${stamp(told.at)} (${ago(told.at, now)})${told.storage ? ` on ${told.storage}` : ""}`;
  return told?.kind === "none" ? "there is none" : undefined;
}

const SOURCES: Record<string, string> = {
  "guest-agent": "told by the guest agent",
  interfaces: "read from its interfaces",
  "not-running": "it does not run",
  "no-agent": "no guest agent is configured, so nothing inside can be seen",
  "agent-silent": "the guest agent does not answer; these are the last ones it told",
  "no-right": "the scanner's token may not ask",
  "not-read": "not asked yet",
};

function Network({ id, record, guest }: { id: string; record: StateRecord; guest: Guest }) {
  const addresses = guest.addresses ?? [];
  return (
    <Panel title="Network and disks">
      <p class="small mute">Addresses: {SOURCES[guest.address_source?.kind ?? "not-read"] ?? guest.address_source?.kind}.</p>
      <dl class="kv">
        <div><dt>Addresses</dt><dd>{addresses.length === 0 ? <Unknown why="no address is known" /> : addresses.map((one) => <span key={one.address} class="block"><Fact of={id} record={record}>{`${one.address}${one.prefix ? `/${one.prefix}` : ""}`}</Fact> <span class="mute small">{one.interface}</span></span>)}</dd></div>
        {Object.entries(guest.nics ?? {}).map(([name, nic]) => <div key={name}><dt>{name}</dt><dd><Fact of={id} record={record}>{[nic.bridge, nic.vlan && `vlan ${nic.vlan}`, nic.ip_config, nic.mac].filter(Boolean).join(" · ")}</Fact></dd></div>)}
        {Object.entries(guest.volumes ?? {}).map(([name, volume]) => <div key={name}><dt>{name}</dt><dd><Fact of={id} record={record}>{volume}</Fact></dd></div>)}
      </dl>
    </Panel>
  );
}

function Needs({ guest, graph }: { guest: Guest; graph: StateRecord | undefined }) {
  const services = (graph?.record as Graph | undefined)?.services ?? {};
  const { needs, neededBy } = relations(services);
  const own = [...carriers(needs.keys(), [guest]).keys()];
  const list = (all: Map<string, number>): string => [...all.keys()].join(", ") || "nothing";
  return (
    <Panel title="Dependencies" side={<a href={keepAt(own[0] ? `#/graph/${encodeURIComponent(own[0])}` : "#/graph")}>Graph</a>}>
      {own.length > 0 ? (
        <dl class="kv"><div><dt>It needs</dt><dd>{list(reach(own, needs))}</dd></div><div><dt>Needed by</dt><dd>{list(reach(own, neededBy))}</dd></div></dl>
      ) : (
        <p class="mute">The dependency graph names no service {guest.name}{graph ? <> (graph, revision {graph.revision}); <code>[services]</code> of policy.toml may say otherwise</> : ": no graph is loaded"}.</p>
      )}
    </Panel>
  );
}

type Verb = { do: string; label: string; when: (guest: Guest) => boolean; danger?: boolean; about: string };
const VERBS: Verb[] = [
  { do: "start", label: "Start", when: (guest) => guest.status === "stopped", about: "Switches it on." },
  { do: "resume", label: "Resume", when: (guest) => guest.status === "paused" || guest.status === "suspended", about: "Goes on where it was." },
  { do: "shutdown", label: "Shut down", when: (guest) => guest.status === "running", about: "Asks the system inside to end." },
  { do: "reboot", label: "Reboot", when: (guest) => guest.status === "running", about: "Shuts it down and starts it again." },
  { do: "snapshot", label: "Snapshot", when: () => true, about: "Keeps the present state of disks and configuration." },
  { do: "backup", label: "Back up", when: () => true, about: "Makes a backup now." },
  { do: "stop", label: "Pull the plug", when: (guest) => guest.status === "running", danger: true, about: "Ends it at once; what was not written is lost." },
  { do: "destroy", label: "Destroy", when: (guest) => guest.status !== "running", danger: true, about: "Removes it and its disks. This cannot be taken back." },
];

function Actions({ guest }: { guest: Guest }) {
  const [open, set] = useState(false);
  if (!may("agent") || guest.template) return null;
  return (
    <div class="acts right">
      <button type="button" class="btn primary" onClick={() => set(true)}>Plan a change …</button>
      {open && <PlanDialog guest={guest} onClose={() => set(false)} />}
    </div>
  );
}

function PlanDialog({ guest, onClose }: { guest: Guest; onClose: () => void }) {
  const verbs = VERBS.filter((verb) => verb.when(guest));
  const [what, pick] = useState(verbs[0]?.do ?? "start");
  const [reason, setReason] = useState("");
  const [name, setName] = useState("");
  const [dependents, setDependents] = useState(false);
  const [rehearse, setRehearse] = useState(false);
  const [undo, setUndo] = useState("");
  const [refusal, refuse] = useState<Refusal | undefined>();
  const [busy, work] = useState(false);
  const verb = verbs.find((one) => one.do === what);
  const takesDependents = ["stop", "shutdown", "reboot"].includes(what);
  const plan = async (): Promise<void> => {
    work(true);
    refuse(undefined);
    const intent: Json = { do: what, guest: `${guest.cluster}/${guest.vmid}` };
    if (takesDependents && dependents) intent["with_dependents"] = true;
    if (what === "snapshot") intent["name"] = name;
    const body: Json = { intent, rehearse };
    if (reason) body["reason"] = reason;
    if (undo) body["undo_unless_confirmed_minutes"] = Number(undo);
    try {
      const planned = await call<{ record: PlanRecord; next: string }>("act", "plan", body);
      onClose();
      go(`#/plan/${planned.record.plan.id}`);
    } catch (error) {
      refuse(asRefusal(error));
      work(false);
    }
  };
  return (
    <Dialog title={`Plan a change of ${guest.name}`} open onClose={onClose}>
      <form onSubmit={(event) => { event.preventDefault(); void plan(); }}>
        <p class="mute">Nothing is changed yet: you get a plan that says every step, what it touches, and how it is taken back.</p>
        <fieldset class="choices">
          <legend>What</legend>
          {verbs.map((one) => (
            <label key={one.do} class="choice" data-danger={one.danger}>
              <input type="radio" name="verb" value={one.do} checked={one.do === what} onChange={() => pick(one.do)} />{one.label}
            </label>
          ))}
        </fieldset>
        <p class="small">{verb?.about}</p>
        {what === "snapshot" && <Field label="Name of the snapshot" name="snapshot-name" hint="letters, digits, - and _; begins with a letter"><input id="snapshot-name" required pattern="[A-Za-z][A-Za-z0-9_\-]{1,39}" value={name} onInput={(event) => setName(event.currentTarget.value)} aria-describedby="snapshot-name-hint" /></Field>}
        {takesDependents && <label class="check"><input type="checkbox" checked={dependents} onChange={(event) => setDependents(event.currentTarget.checked)} />shut down first, in order, what runs and needs it</label>}
        <Field label="Reason" name="reason" hint="who approves reads it"><input id="reason" value={reason} maxLength={500} onInput={(event) => setReason(event.currentTarget.value)} aria-describedby="reason-hint" /></Field>
        <div class="row wrap">
          <label class="check"><input type="checkbox" checked={rehearse} onChange={(event) => setRehearse(event.currentTarget.checked)} />rehearse in a simulated copy of the lab</label>
          <label class="inline"><span>take back unless confirmed within</span><input class="short" type="number" min={1} max={1440} value={undo} onInput={(event) => setUndo(event.currentTarget.value)} /><span>min</span></label>
        </div>
        <Refused why={refusal} title="No plan was made" />
        <div class="acts">
          <button type="button" class="btn" onClick={onClose}>Cancel</button>
          <button type="submit" class="btn primary" disabled={busy}>{busy ? "looking …" : "Make the plan"}</button>
        </div>
      </form>
    </Dialog>
  );
}

