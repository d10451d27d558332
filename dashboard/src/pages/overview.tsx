// The lab at a glance: what stands, what runs, who may use the GPU, what is wrong, what waits, what happened last.

import { Component, type ComponentChildren } from "preact";
import { useMemo, useState } from "preact/hooks";
import { asRefusal, call, json, request } from "../api/client.ts";
import type { ActListed, Alert, Gauges, GpuSeen, Guest, Live, Mesh, Node, StateRecord, Storage } from "../api/types.ts";
import { bytes, moment, percent, plural, share, span, stamp } from "../lib/format.ts";
import { named, recordHref, tokens } from "../lib/key.ts";
import { useAsk } from "../store/ask.ts";
import { tick } from "../store/clock.ts";
import { happenings, happeningsCut, plansChanged, type Happening, type View } from "../store/lab.ts";
import { past, shown } from "../store/moment.ts";
import { at, keep, route, setQuery } from "../store/route.ts";
import { may } from "../store/session.ts";
import { Ago, Badge, Bar, counts, Dot, Empty, Fact, Gauge, gaugeSource, Loading, Panel, Refused, source, Status, toneOf, Unknown, type Tone } from "../ui/base.tsx";
import { Icon } from "../ui/icons.tsx";
import { TimeBar } from "../ui/timebar.tsx";
import { say } from "../ui/toast.tsx";
import { GpuCard } from "./gpu.tsx";

type Row<T> = { key: string; record: StateRecord; value: T; live: Live | undefined };

export function rows<T>(view: View, ...sections: string[]): Row<T>[] {
  const all: Row<T>[] = [];
  for (const [key, record] of view.records) {
    if (!sections.includes(key.split(".", 1)[0] ?? "")) continue;
    all.push({ key, record, value: record.record as T, live: gaugeOf(record, view.gauges.get(key)) });
  }
  return all;
}

/** A gauge that was read before its record went stale, or its node offline, says nothing about now. */
export function gaugeOf(record: StateRecord, live: Live | undefined): Live | undefined {
  if (!live) return undefined;
  const lost = record.stale?.since ?? (record.record["status"] === "offline" ? record.at : undefined);
  return lost !== undefined && moment(live.at) <= moment(lost) ? undefined : live;
}

export function Overview() {
  const view = shown();
  return (
    <>
      <h1 class="vh" tabIndex={-1}>Overview</h1>
      <TimeBar />
      {view ? <Lab view={view} /> : past.value?.is === "refused" ? null : <Loading what="the lab" />}
    </>
  );
}

function Lab({ view }: { view: View }) {
  const guests = rows<Guest>(view, "vm", "lxc");
  const nodes = rows<Node>(view, "node");
  const alerts = rows<Alert>(view, "alert");
  const isPast = at.value !== undefined;
  const plans = useAsk((signal) => call<ActListed>("act", "list", { open: true, limit: 20 }, signal), [plansChanged.value]);
  const gpus = useAsk((signal) => call<{ gpus: Record<string, GpuSeen> }>("gpu", "get", {}, signal), [view.revision, Math.floor(tick.value / 10_000)]);
  return (
    <>
      <Tiles view={view} guests={guests} nodes={nodes} alerts={alerts} plans={plans.value} gpus={gpus.value?.gpus} isPast={isPast} />
      {plans.value?.frozen && (
        <div class="note" data-tone="bad">
          <p><strong>Everything is frozen</strong> by {plans.value.frozen.by} since {stamp(plans.value.frozen.since)}{plans.value.frozen.reason && `: ${plans.value.frozen.reason}`}. <a href="#/plans">Plans</a></p>
        </div>
      )}
      {view.stale && <div class="note" data-tone="warn"><p><strong>This may be out of date:</strong> {view.stale}</p></div>}
      <Alerts alerts={alerts} view={view} />
      <div class="split">
        <div class="stack">
          <Guests guests={guests} view={view} />
          <Happened view={view} />
        </div>
        <div class="stack">
          <Nodes nodes={nodes} isPast={isPast} />
          {!isPast && (
            <Panel title="GPU semaphore" side={<a href="#/ai">AI</a>}>
              <Refused why={gpus.refusal} title="Not read" />
              {gpus.value && Object.keys(gpus.value.gpus).length === 0 && (
                <Empty title="No machine tells of a GPU.">Run <code>nhi agent gpu</code> on the gaming PC: it says with a light whether anything of the mesh may run there.</Empty>
              )}
              {Object.entries(gpus.value?.gpus ?? {}).map(([host, seen]) => <GpuCard key={host} host={host} seen={seen} record={view.records.get(`gpu.${host}`)} onChanged={gpus.again} />)}
            </Panel>
          )}
          {!isPast && <Waiting listed={plans.value} refusal={plans.refusal} />}
          {!isPast && <Services />}
          <Sources view={view} />
          <Storages view={view} />
        </div>
      </div>
    </>
  );
}

function Tile({ label, href, title, tone, children }: { label: string; href: string; title: string; tone?: Tone | undefined; children: ComponentChildren }) {
  return (
    <a class="tile" href={href} title={title} data-tone={tone}>
      <span class="label">{label}</span>
      <span class="value">{children}</span>
    </a>
  );
}

type TilesOf = { view: View; guests: Row<Guest>[]; nodes: Row<Node>[]; alerts: Row<Alert>[]; plans: ActListed | undefined; gpus: Record<string, GpuSeen> | undefined; isPast: boolean };

function Tiles({ view, guests, nodes, alerts, plans, gpus, isPast }: TilesOf) {
  const real = guests.filter((one) => !one.value.template);
  const running = real.filter((one) => one.value.status === "running").length;
  const online = nodes.filter((one) => one.value.status === "online").length;
  const worst = alerts.some((one) => one.value.severity === "critical") ? "bad" : alerts.length > 0 ? "warn" : "ok";
  const lights = Object.values(gpus ?? {});
  const from = (what: string): string => `counted over ${what} at revision ${view.revision}`;
  return (
    <div class="tiles">
      <Tile label="Nodes online" href={keep("#/overview")} title={from(`${nodes.length} records node.*`)} tone={nodes.length === 0 ? undefined : online === nodes.length ? "ok" : "bad"}>
        {nodes.length === 0 ? <Unknown why="no node was seen yet" /> : <>{online}<small> of {nodes.length}</small></>}
      </Tile>
      <Tile label="Guests running" href={keep("#/overview")} title={from(`${real.length} records vm.* and lxc.*, templates left out`)}>
        {real.length === 0 ? <Unknown why="no guest was seen yet" /> : <>{running}<small> of {real.length}</small></>}
      </Tile>
      <Tile label="Alerts" href={keep("#/overview")} title={from(`${alerts.length} records alert.*`)} tone={worst}>{alerts.length}</Tile>
      {!isPast && (
        <>
          <Tile label="Plans that wait" href="#/plans" title="rows of act.list {open: true}" tone={plans?.plans.length ? "info" : undefined}>
            {plans ? plans.plans.length : <Unknown why="act.list has not answered" />}
          </Tile>
          <Tile label="GPU" href="#/ai" title="lights of gpu.get" tone={lights[0]?.gauges ? toneOf(lights[0].gauges.light) : undefined}>
            {gpus === undefined ? <Unknown why="gpu.get has not answered" /> : lights.length === 0 ? <small>none</small> : lights.length === 1 ? (lights[0]?.gauges?.light ?? <Unknown why={lights[0]?.text ?? ""} />) : <>{lights.filter((one) => one.available).length}<small> of {lights.length} free</small></>}
          </Tile>
        </>
      )}
      <Tile label="Revision" href="#/changes" title="the state's last commit; each one is an event">{view.revision}</Tile>
    </div>
  );
}

function Alerts({ alerts, view }: { alerts: Row<Alert>[]; view: View }) {
  if (alerts.length === 0) return null;
  const order = ["critical", "warning", "info"];
  const sorted = [...alerts].sort((a, b) => order.indexOf(a.value.severity) - order.indexOf(b.value.severity));
  return (
    <Panel title="Alerts" side={<span class="mute">{alerts.length}</span>}>
      <ul class="plain lines">
        {sorted.map(({ key, record, value }) => (
          <li key={key} class="alertrow">
            <Badge tone={toneOf(value.severity)}>{value.severity}</Badge>
            <div>
              <p><a href={keep(recordHref(key))} title={source(key, record)}>{value.summary}</a></p>
              <p class="small mute">{value.hint} · since <Ago at={value.since} />{value.about && <> · <a href={keep(recordHref(value.about))}>{named(value.about, view.records.get(value.about)?.record)}</a></>}</p>
            </div>
          </li>
        ))}
      </ul>
    </Panel>
  );
}

function Nodes({ nodes, isPast }: { nodes: Row<Node>[]; isPast: boolean }) {
  return (
    <Panel title="Nodes" side={<span class="mute">{nodes.length || "none"}</span>}>
      {nodes.length === 0 && <Empty title="No node was seen yet.">The scanner reads them from Proxmox; <code>nhi doctor</code> says what is missing.</Empty>}
      <ul class="plain cards">
        {nodes.map(({ key, record, value, live }) => {
          const gauges = (live?.record ?? {}) as Gauges;
          const known = counts(live);
          return (
            <li key={key} class="nodecard">
              <div class="row">
                <a class="strong" href={keep(recordHref(key))}>{value.node}</a>
                <Status word={value.status} stale={record.stale?.reason} />
                <span class="mute small right"><Fact of={key} record={record}>{value.pve_version ? `PVE ${value.pve_version}` : undefined}</Fact></span>
              </div>
              {!isPast && (
                <dl class="meters">
                  <Meter name="CPU" of={key} live={live} part={known ? gauges.cpu : undefined} text={`${percent(gauges.cpu) ?? ""} of ${value.cpus ?? "?"}`} />
                  <Meter name="Memory" of={key} live={live} part={known ? share(gauges.mem, value.memory_bytes) : undefined} text={`${bytes(gauges.mem) ?? ""} of ${bytes(value.memory_bytes) ?? "?"}`} />
                  <Meter name="Disk" of={key} live={live} part={known ? share(gauges.disk, value.disk_bytes) : undefined} text={`${bytes(gauges.disk) ?? ""} of ${bytes(value.disk_bytes) ?? "?"}`} />
                </dl>
              )}
            </li>
          );
        })}
      </ul>
    </Panel>
  );
}

export function Meter({ name, of, live, part, text }: { name: string; of: string; live: Live | undefined; part: number | undefined; text: string }) {
  return (
    <div class="meter">
      <dt>{name}</dt>
      <dd>
        <Bar share={part} label={name} title={gaugeSource(of, live)} />
        <span class="num"><Gauge of={of} live={live}>{part === undefined ? undefined : text}</Gauge></span>
      </dd>
    </div>
  );
}

const ORDER: Record<string, number> = { running: 0, paused: 1, suspended: 1, unknown: 1, stopped: 2 };

function Guests({ guests, view }: { guests: Row<Guest>[]; view: View }) {
  const filter = (route.value.query.get("find") ?? "").toLowerCase();
  const sort = route.value.query.get("sort") ?? "name";
  const list = useMemo(() => {
    const hit = (one: Row<Guest>): boolean =>
      [one.value.name, String(one.value.vmid), one.value.node, one.value.status, ...(one.value.tags ?? []), ...(one.value.addresses ?? []).map((a) => a.address)].some((text) => text.toLowerCase().includes(filter));
    const by: Record<string, (a: Row<Guest>, b: Row<Guest>) => number> = {
      name: (a, b) => a.value.name.localeCompare(b.value.name),
      number: (a, b) => a.value.vmid - b.value.vmid,
      node: (a, b) => a.value.node.localeCompare(b.value.node) || a.value.name.localeCompare(b.value.name),
      status: (a, b) => (ORDER[a.value.status] ?? 3) - (ORDER[b.value.status] ?? 3) || a.value.name.localeCompare(b.value.name),
      load: (a, b) => load(b) - load(a),
    };
    return guests.filter((one) => !filter || hit(one)).sort(by[sort] ?? by["name"]);
  }, [guests, filter, sort, view]);
  return (
    <Panel
      flush
      title="Guests"
      side={
        <div class="row">
          <input class="find" type="search" placeholder="find" aria-label="Find guests by name, number, node, tag or address" value={filter} onInput={(event) => setQuery({ find: event.currentTarget.value || null })} />
          <label class="inline"><span class="vh">Sort by</span>
            <select value={sort} onChange={(event) => setQuery({ sort: event.currentTarget.value })}>
              <option value="name">by name</option><option value="number">by number</option><option value="node">by node</option><option value="status">by status</option><option value="load">by load</option>
            </select>
          </label>
        </div>
      }
    >
      {guests.length === 0 ? (
        <Empty title="No guest is known.">Either the lab has none at this moment, or the scanner has not seen it: look at Sources.</Empty>
      ) : list.length === 0 ? (
        <Empty title={`Nothing is found for “${filter}”.`} />
      ) : (
        <table class="data guests">
          <thead><tr><th scope="col">Guest</th><th scope="col" class="wide">No.</th><th scope="col">Status</th><th scope="col" class="wide">Node</th><th scope="col" class="load">CPU</th><th scope="col" class="load">Memory</th><th scope="col" class="wide">Address</th></tr></thead>
          <tbody>{list.map((one) => <GuestLine key={one.key} of={one} />)}</tbody>
        </table>
      )}
    </Panel>
  );
}

function load(one: Row<Guest>): number {
  return counts(one.live) ? ((one.live.record as Gauges).cpu ?? -1) : -1;
}

/** A row is drawn again when its own record or gauge changed, not when another's did: a lab may have a thousand. */
class GuestLine extends Component<{ of: Row<Guest> }> {
  override shouldComponentUpdate(next: { of: Row<Guest> }, state: unknown): boolean {
    // A new state is a signal's: the time, or the moment looked at.
    return next.of.record !== this.props.of.record || next.of.live !== this.props.of.live || state !== this.state;
  }

  override render() {
    return line(this.props.of);
  }
}

function line(of: Row<Guest>) {
  const { key, value: guest, record, live } = of;
  const number = `${guest.kind === "lxc" ? "ct" : "vm"} ${guest.vmid}`;
  const gauges = (live?.record ?? {}) as Gauges;
  const known = counts(live) && guest.status === "running";
  const address = guest.addresses?.find((one) => one.address.includes("."))?.address ?? guest.addresses?.[0]?.address;
  return (
    <tr data-key={key} data-status={guest.status} class={record.stale ? "stale" : undefined}>
      <th scope="row">
        <a href={keep(recordHref(key))} title={source(key, record)}>{guest.name || key}</a>
        {guest.protection && <span class="flag" title="protected in Proxmox"><Icon name="lock" /><span class="vh">protected</span></span>}
        <span class="sub">
          <span class="narrow"><Fact of={key} record={record}>{number}</Fact>{guest.template || guest.lock ? " · " : ""}</span>
          {guest.template && "template"}{guest.lock && `locked: ${guest.lock}`}
        </span>
      </th>
      <td class="wide small mute"><Fact of={key} record={record}>{number}</Fact></td>
      <td><Status word={guest.status} stale={record.stale && `${record.stale.reason} (since ${stamp(record.stale.since)})`} /></td>
      <td class="wide"><Fact of={key} record={record}>{guest.node}</Fact></td>
      <td class="load"><GuestBar name="CPU" of={key} live={live} part={known ? gauges.cpu : undefined} idle={guest.status !== "running"} /></td>
      <td class="load"><GuestBar name="Memory" of={key} live={live} part={known ? share(gauges.mem, guest.memory_bytes) : undefined} idle={guest.status !== "running"} /></td>
      <td class="wide mono small">{address ? <Fact of={key} record={record}>{address}</Fact> : <Unknown why={`no address: ${guest.address_source?.kind ?? "not read"}`} />}</td>
    </tr>
  );
}

function GuestBar({ name, of, live, part, idle }: { name: string; of: string; live: Live | undefined; part: number | undefined; idle: boolean }) {
  if (idle) return <span class="mute" title="it does not run">·</span>;
  return (
    <span class="gbar">
      <Bar share={part} label={name} title={gaugeSource(of, live)} />
      <span class="num small"><Gauge of={of} live={live}>{percent(part)}</Gauge></span>
    </span>
  );
}

/** Rows of one commit that came together are one event. */
function grouped(all: Happening[]): Happening[][] {
  const groups: Happening[][] = [];
  for (const one of all) {
    const last = groups.at(-1);
    if (last?.[0] && last[0].at === one.at && last[0].story === one.story && one.kind !== "changed") last.push(one);
    else groups.push([one]);
  }
  return groups;
}

function Happened({ view }: { view: View }) {
  const until = at.value ? view.revision : Infinity;
  const all = happenings.value.filter((one) => one.revision <= until && !one.key.startsWith("provider.") && !one.key.startsWith("source."));
  const groups = grouped(all).slice(0, 14);
  return (
    <Panel title="What happened last" side={<a href="#/changes">Changes between two moments</a>}>
      {groups.length === 0 && <Empty title="Nothing has happened yet.">A quiet lab writes nothing: each line here will be an event.</Empty>}
      <ol class="plain feed">
        {groups.map((group) => <Event key={`${group[0]?.revision} ${group[0]?.key}`} group={group} view={view} />)}
      </ol>
      {happeningsCut.value && groups.length > 0 && <p class="small mute">Older events are in each record's history.</p>}
    </Panel>
  );
}

function Event({ group, view }: { group: Happening[]; view: View }) {
  const first = group[0];
  if (!first) return null;
  const name = (one: Happening): string => named(one.key, view.records.get(one.key)?.record ?? one.record);
  return (
    <li>
      <span class="when small mute"><Ago at={first.at} /></span>
      {group.length === 1 ? (
        <span><a href={keep(recordHref(first.key))} title={`${first.key} · revision ${first.revision}`}>{name(first)}</a> {first.story}</span>
      ) : (
        <details><summary>{plural(group.length, "record")} {first.story} <span class="mute small">in one commit, up to revision {first.revision}</span></summary>
          <ul class="plain inline-list">{group.map((one) => <li key={one.key}><a href={keep(recordHref(one.key))} title={`${one.key} · revision ${one.revision}`}>{name(one)}</a></li>)}</ul>
        </details>
      )}
      <span class="small mute right" title="revision of the commit">r{first.revision}</span>
    </li>
  );
}

function Waiting({ listed, refusal }: { listed: ActListed | undefined; refusal: Parameters<typeof Refused>[0]["why"] }) {
  return (
    <Panel title="Plans that wait" side={<a href="#/plans">All plans</a>}>
      <Refused why={refusal} title="Not read" />
      {listed?.plans.length === 0 && <Empty title="Nothing waits for anybody." />}
      <ul class="plain lines">
        {listed?.plans.slice(0, 6).map((row) => (
          <li key={row.plan}>
            <p><a href={`#/plan/${row.plan}`}>{row.summary}</a></p>
            <p class="small mute"><Badge tone={toneOf(row.run?.is ?? (row.verdict === "approval" ? "approval" : "open"))}>{row.run?.is ?? row.verdict}</Badge> {row.by} · <Ago at={row.made_at} /></p>
          </li>
        ))}
      </ul>
    </Panel>
  );
}

export async function readMesh(signal?: AbortSignal): Promise<Mesh> {
  return json<Mesh>(await request("GET", "/mesh", undefined, signal ? { signal } : {}), signal);
}

function Services() {
  const mesh = useAsk(readMesh, [Math.floor(tick.value / 30_000)]);
  return (
    <Panel title="Agents and services" side={<a href="#/mesh">Mesh</a>}>
      <Refused why={mesh.refusal} title="Not read" />
      {!mesh.value && mesh.busy && <Loading what="discovery" />}
      <ul class="plain chips">
        {mesh.value?.services.map((one) => {
          const stats = Object.values(one.stats ?? {});
          const errors = stats.reduce((sum, row) => sum + row.errors, 0);
          const requests = stats.reduce((sum, row) => sum + row.requests, 0);
          return (
            <li key={`${one.name} ${one.version}`}>
              <a class="chip" href={`#/mesh/${one.name}`} title={`${one.description} · $SRV.INFO.${one.name}: ${plural(one.instances.length, "instance")}${one.stats ? ` · $SRV.STATS: ${plural(requests, "request")}, ${plural(errors, "error")}` : ""}`}>
                <Dot tone={one.problems?.length ? "warn" : "ok"} />{one.name} <span class="mute small">{one.version}</span>
              </a>
            </li>
          );
        })}
      </ul>
    </Panel>
  );
}

function Sources({ view }: { view: View }) {
  const now = tick.value;
  const all = Object.entries(view.sources);
  const isPast = at.value !== undefined;
  return (
    <Panel title="Sources" side={may("operator") && !isPast ? <RescanButton /> : undefined}>
      {all.length === 0 && <Empty title="Nothing is read from anywhere yet." />}
      <ul class="plain lines">
        {all.map(([id, told]) => {
          const key = `source.${id}`;
          const age = told.last_success ? now - moment(told.last_success) : undefined;
          const bad = told.stale ?? (told.coverage.kind === "complete" ? undefined : told.coverage.reason);
          return (
            <li key={id} class="row wrap" title={source(key, view.records.get(key))}>
              <a href={keep(recordHref(key))}>{id}</a>
              <Status word={told.coverage.kind} stale={told.stale} />
              <span class="small mute right">{isPast ? "" : age === undefined ? "never read whole" : `read ${span(age)} ago`}</span>
              {bad && <p class="small warntext">{bad}</p>}
            </li>
          );
        })}
      </ul>
    </Panel>
  );
}

function RescanButton() {
  const [busy, set] = useState(false);
  const look = async (): Promise<void> => {
    set(true);
    try {
      const done = await call<{ revision: number; duration_ms: number; writes: number }>("scan", "now");
      say(`Looked at everything in ${done.duration_ms} ms: ${plural(done.writes, "record")} written, revision ${done.revision}`);
    } catch (error) {
      say(asRefusal(error).message);
    }
    set(false);
  };
  return <button type="button" class="btn quiet" disabled={busy} onClick={() => void look()}>{busy ? "looking …" : "Look now"}</button>;
}

function Storages({ view }: { view: View }) {
  const all = rows<Storage>(view, "storage").filter((one) => one.value.enabled !== false);
  const seen = new Set<string>();
  const list = all.filter((one) => {
    // A shared storage is one, however many nodes see it.
    const id = one.value.shared ? one.value.storage : one.key;
    if (seen.has(id)) return false;
    seen.add(id);
    return true;
  });
  if (list.length === 0) return null;
  return (
    <Panel title="Storages" side={<span class="mute">{list.length}</span>}>
      <ul class="plain lines tight">
        {list.map(({ key, value, live, record }) => {
          const gauges = (live?.record ?? {}) as { used?: number; total?: number };
          const part = counts(live) ? share(gauges.used, gauges.total) : undefined;
          return (
            <li key={key} class="storagerow">
              <a href={keep(recordHref(key))} title={source(key, record)}>{value.storage}<span class="mute small"> {value.shared ? "shared" : tokens(key)[1]}</span></a>
              <Bar share={part} label={`${value.storage} used`} title={gaugeSource(key, live)} />
              <span class="num small"><Gauge of={key} live={live}>{part === undefined ? undefined : `${bytes(gauges.used)} of ${bytes(gauges.total)}`}</Gauge></span>
            </li>
          );
        })}
      </ul>
    </Panel>
  );
}
