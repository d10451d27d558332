// The dependency graph, drawn: what needs what, from left to right. Looking at a service (mouse, keyboard, touch) shows
// what would fall with it and what it stands on. The same as a list, for who does not want a drawing.

import { signal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import type { Graph, GraphService, Guest, StateRecord } from "../api/types.ts";
import { plural } from "../lib/format.ts";
import { isGuest, recordHref } from "../lib/key.ts";
import { layout, NODE, reach, relations, type Layout } from "../lib/layout.ts";
import { carriers } from "../lib/services.ts";
import type { View } from "../store/lab.ts";
import { past, shown } from "../store/moment.ts";
import { keep, route, setQuery } from "../store/route.ts";
import { Badge, Empty, Loading, Panel, Scroll, source, Status, Tabs, toneOf, type Tone } from "../ui/base.tsx";
import { TimeBar } from "../ui/timebar.tsx";

/** The service looked at. */
const looked = signal<string | undefined>(undefined);

export function GraphPage({ focus }: { focus: string }) {
  const view = shown();
  const record = view?.records.get("graph");
  const graph = record?.record as Graph | undefined;
  const services = graph?.services ?? {};
  const as = route.value.query.get("as") === "list" ? "list" : "drawing";
  useEffect(() => {
    looked.value = focus || undefined;
    return () => {
      looked.value = undefined;
    };
  }, [focus]);
  return (
    <>
      <div class="head">
        <h1 tabIndex={-1}>Dependencies</h1>
        <Tabs label="Show as" options={[["drawing", "Drawing"], ["list", "List"]]} value={as} onPick={(value) => setQuery({ as: value === "list" ? "list" : null })} />
      </div>
      <TimeBar />
      {!view && past.value?.is !== "refused" && <Loading what="the graph" />}
      {view && !record && (
        <Panel title="No graph">
          <Empty title="No dependency graph is loaded.">
            Write <code>infrastructure/dependency_graph.json</code>: <code>{'{"services": {"app": {"depends_on": ["nas"], "criticality": "high"}}}'}</code>. The scanner reads it within a minute. A service carries the name of the guest it runs on.
          </Empty>
        </Panel>
      )}
      {view && record && Object.keys(services).length === 0 && <Panel title="Empty graph"><Empty title="The graph names no services." /></Panel>}
      {view && record && Object.keys(services).length > 0 && (
        <>
          {graph?.warnings?.length ? <div class="note" data-tone="warn"><p><strong>{plural(graph.warnings.length, "warning")} about the file:</strong></p><ul>{graph.warnings.map((one) => <li key={one}>{one}</li>)}</ul></div> : null}
          {as === "list" ? <AsList services={services} view={view} record={record} /> : <Drawing services={services} view={view} record={record} />}
        </>
      )}
    </>
  );
}

type Carrier = { key: string; record: StateRecord; name: string; status: string };

function carriersIn(view: View, services: Iterable<string>): Map<string, Carrier[]> {
  const guests = [...view.records].filter(([key]) => isGuest(key)).map(([key, record]) => {
    const { name, status } = record.record as Guest;
    return { key, record, name, status };
  });
  return carriers(services, guests);
}

/** How all of a service's carriers are, in a word and a colour. */
function mood(all: Carrier[]): { word: string; tone: Tone } {
  const words = [...new Set(all.map((one) => one.status))];
  const [first] = words;
  if (!first || all.some((one) => one.record.stale)) return { word: words.join(", "), tone: "mute" };
  return { word: words.join(", "), tone: words.length > 1 ? "warn" : toneOf(first) };
}

function Drawing({ services, view, record }: { services: Record<string, GraphService>; view: View; record: StateRecord }) {
  const drawn = useMemo(() => layout(services), [services]);
  const { needs, neededBy } = useMemo(() => relations(services), [services]);
  const guests = useMemo(() => carriersIn(view, needs.keys()), [view, needs]);
  const at = looked.value;
  const falls = at ? reach(at, neededBy) : new Map<string, number>();
  const stands = at ? reach(at, needs) : new Map<string, number>();
  const mark = (name: string): string => (!at ? "" : name === at ? "self" : falls.has(name) ? "falls" : stands.has(name) ? "stands" : "dim");
  const svg = useRef<SVGSVGElement>(null);
  const focusOn = (name: string | undefined): void => {
    if (!name) return;
    svg.current?.querySelector<SVGAElement>(`[data-service="${CSS.escape(name)}"]`)?.focus();
  };
  return (
    <>
      <Panel title="Drawing" flush side={<span class="small mute" title={source("graph", record)}>{plural(drawn.places.size, "service")} · revision {record.revision}</span>}>
        <p class="legend small">
          <span data-mark="falls">falls with it</span><span data-mark="self">looked at</span><span data-mark="stands">it needs</span>
          <span class="mute">Point at a service, or use Tab and the arrow keys.</span>
        </p>
        <Scroll label="Dependency graph">
          <svg ref={svg} class="graph" width={drawn.width} height={drawn.height} viewBox={`0 0 ${drawn.width} ${drawn.height}`} role="group" aria-label="Services and what they need" onMouseLeave={() => (looked.value = route.value.argument || undefined)}>
            <defs>
              <marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0.5 7 4 0 7.500z" /></marker>
            </defs>
            {drawn.edges.map((edge) => <Line key={`${edge.from} ${edge.to}`} drawn={drawn} from={edge.from} to={edge.to} mark={lineMark(at, edge.from, edge.to, falls, stands)} />)}
            {[...drawn.places.values()].map((place) => {
              const service = services[place.name];
              const { word, tone } = mood(guests.get(place.name) ?? []);
              const state = word || (service ? "no guest of that name" : "named, but not described");
              const text = `${place.name}: ${state}; needs ${[...(needs.get(place.name) ?? [])].join(", ") || "nothing"}; needed by ${[...(neededBy.get(place.name) ?? [])].join(", ") || "nothing"}`;
              return (
                <a
                  key={place.name} href={keep(`#/graph/${encodeURIComponent(place.name)}`)} class="gnode" data-mark={mark(place.name)} data-service={place.name} data-critical={service?.criticality}
                  onMouseEnter={() => (looked.value = place.name)} onFocus={() => (looked.value = place.name)}
                  onKeyDown={(event) => {
                    const next = step(event.key, drawn, place.name, needs, neededBy);
                    if (!next) return;
                    event.preventDefault();
                    focusOn(next);
                  }}
                >
                  <title>{text}</title>
                  <rect x={place.x} y={place.y} width={NODE.width} height={NODE.height} rx="7" />
                  <circle class="dot" data-tone={tone} cx={place.x + 15} cy={place.y + NODE.height / 2} r="4.500" />
                  <text x={place.x + 27} y={place.y + 17}>{cut(place.name, 18)}</text>
                  <text class="sub" x={place.x + 27} y={place.y + 31}>{cut(service ? `${service.criticality ?? "medium"} · ${word || "no guest"}` : "not described", 22)}</text>
                </a>
              );
            })}
          </svg>
        </Scroll>
      </Panel>
      <Impact at={at} falls={falls} stands={stands} services={services} guests={guests} />
    </>
  );
}

function lineMark(at: string | undefined, from: string, to: string, falls: Map<string, number>, stands: Map<string, number>): string {
  if (!at) return "";
  if ((from === at || stands.has(from)) && stands.has(to)) return "stands";
  if (falls.has(from) && (to === at || falls.has(to))) return "falls";
  return "dim";
}

function Line({ drawn, from, to, mark }: { drawn: Layout; from: string; to: string; mark: string }) {
  const a = drawn.places.get(from);
  const b = drawn.places.get(to);
  if (!a || !b) return null;
  const [x1, y1, x2, y2] = [a.x + NODE.width, a.y + NODE.height / 2, b.x - 2, b.y + NODE.height / 2];
  const bend = Math.max(24, (x2 - x1) / 2);
  return <path class="edge" data-mark={mark} d={`M${x1} ${y1} C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`} marker-end="url(#arrow)" />;
}

/** Arrow keys go along the edges, and up and down within a layer. */
function step(key: string, drawn: Layout, name: string, needs: Map<string, Set<string>>, neededBy: Map<string, Set<string>>): string | undefined {
  const place = drawn.places.get(name);
  const layer = drawn.layers[place?.layer ?? -1] ?? [];
  const nearest = (names: Iterable<string>): string | undefined =>
    [...names].sort((a, b) => Math.abs((drawn.places.get(a)?.y ?? 0) - (place?.y ?? 0)) - Math.abs((drawn.places.get(b)?.y ?? 0) - (place?.y ?? 0)))[0];
  switch (key) {
    case "ArrowRight":
      return nearest(needs.get(name) ?? []);
    case "ArrowLeft":
      return nearest(neededBy.get(name) ?? []);
    case "ArrowDown":
      return layer[(place?.row ?? 0) + 1];
    case "ArrowUp":
      return layer[(place?.row ?? 0) - 1];
    default:
      return undefined;
  }
}

function cut(text: string, most: number): string {
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

type ImpactOf = { at: string | undefined; falls: Map<string, number>; stands: Map<string, number>; services: Record<string, GraphService>; guests: Map<string, Carrier[]> };

function Impact({ at, falls, stands, services, guests }: ImpactOf) {
  const carried = (at ? guests.get(at) : undefined) ?? [];
  const service = at ? services[at] : undefined;
  const names = (all: Map<string, number>) => [...all].sort((a, b) => a[1] - b[1] || a[0].localeCompare(b[0])).map(([name, steps]) => (
    <li key={name}><a href={keep(`#/graph/${encodeURIComponent(name)}`)}>{name}</a>{steps > 1 && <span class="mute small"> through {plural(steps - 1, "other")}</span>}</li>
  ));
  return (
    <Panel title={at ? `If ${at} stops` : "Impact"}>
      {!at ? <p class="mute">Look at a service to see what would fall with it.</p> : (
        <div class="impact" data-testid="impact">
          <div>
            <h3>Falls with it <span class="mute">{falls.size}</span></h3>
            {falls.size === 0 ? <p class="mute">Nothing needs it.</p> : <ul class="plain inline-list">{names(falls)}</ul>}
          </div>
          <div>
            <h3>It needs <span class="mute">{stands.size}</span></h3>
            {stands.size === 0 ? <p class="mute">Nothing.</p> : <ul class="plain inline-list">{names(stands)}</ul>}
          </div>
          <div>
            <h3>What is said of it</h3>
            {service ? (
              <p class="small">
                <Badge tone={service.criticality === "critical" ? "bad" : service.criticality === "high" ? "warn" : "mute"}>{service.criticality ?? "medium"}</Badge>{" "}
                {service.can_restart_without_approval ? "may be restarted without approval" : "needs approval for a restart"}
                {service.restart_safe_hours?.length ? ` · safe hours ${service.restart_safe_hours.join(", ")}` : ""}
              </p>
            ) : <p class="small mute">Others name it, the file does not describe it.</p>}
            {carried.map((one) => <p key={one.key}><a href={keep(recordHref(one.key))}>{one.name}</a> <Status word={one.status} stale={one.record.stale?.reason} /></p>)}
            {carried.length === 0 && <p class="small mute">No guest has this name; <code>[services]</code> of policy.toml may say which carries it.</p>}
          </div>
        </div>
      )}
    </Panel>
  );
}

function AsList({ services, view, record }: { services: Record<string, GraphService>; view: View; record: StateRecord }) {
  const { needs, neededBy } = relations(services);
  const guests = carriersIn(view, needs.keys());
  const links = (names: Set<string> | undefined) => [...(names ?? [])].sort().map((name, at) => <span key={name}>{at > 0 && ", "}<a href={keep(`#/graph/${encodeURIComponent(name)}`)}>{name}</a></span>);
  return (
    <Panel title="Services" flush side={<span class="small mute" title={source("graph", record)}>revision {record.revision}</span>}>
      <Scroll label="Services and what they need">
        <table class="data">
          <thead><tr><th scope="col">Service</th><th scope="col">Guest</th><th scope="col">Criticality</th><th scope="col">Needs</th><th scope="col">Needed by</th><th scope="col">Falls with it</th></tr></thead>
          <tbody>
            {[...needs.keys()].sort().map((name) => {
              const carried = guests.get(name) ?? [];
              const falls = [...reach(name, neededBy).keys()];
              return (
                <tr key={name}>
                  <th scope="row">{name}</th>
                  <td>{carried.length > 0 ? carried.map((one, at) => <span key={one.key}>{at > 0 && ", "}<a href={keep(recordHref(one.key))}><Status word={one.status} stale={one.record.stale?.reason} /></a></span>) : <span class="mute">none of that name</span>}</td>
                  <td>{services[name]?.criticality ?? <span class="mute">not described</span>}</td>
                  <td>{needs.get(name)?.size ? links(needs.get(name)) : <span class="mute">nothing</span>}</td>
                  <td>{neededBy.get(name)?.size ? links(neededBy.get(name)) : <span class="mute">nothing</span>}</td>
                  <td title={falls.join(", ")}>{falls.length}</td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </Scroll>
    </Panel>
  );
}
