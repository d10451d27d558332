// What the mesh offers, as services say themselves: endpoints with their effect and figures, and a form for each, made of
// its own schema. A call is made with the caller's rights; nats-server refuses what they do not cover.

import { useEffect, useMemo, useState } from "preact/hooks";
import { asRefusal, call, frames, Refusal } from "../api/client.ts";
import type { Endpoint, Mesh as MeshOf, Offered } from "../api/types.ts";
import { count, plural } from "../lib/format.ts";
import { form, missing, preset } from "../lib/schema.ts";
import { useAsk } from "../store/ask.ts";
import { tick } from "../store/clock.ts";
import { Badge, Dialog, Dot, Empty, Loading, Panel, Refused, Scroll, Tabs, toneOf, Unknown } from "../ui/base.tsx";
import { SchemaForm } from "../ui/schemaform.tsx";
import { readMesh } from "./overview.tsx";

export function MeshPage({ name }: { name: string }) {
  const told = useAsk<MeshOf>(readMesh, [Math.floor(tick.value / 10_000)]);
  const services = told.value?.services ?? [];
  const shown = name ? services.filter((one) => one.name === name) : services;
  return (
    <>
      <div class="head"><h1 tabIndex={-1}>{name || "Mesh"}</h1><p class="mute">{name ? <a href="#/mesh">all services</a> : "Services as they describe themselves; each is also a tool of MCP and a path of REST."}</p></div>
      <Refused why={told.refusal} title="Not read" />
      {!told.value && told.busy && <Loading what="discovery" />}
      {told.value?.problems?.length ? <div class="note" data-tone="warn"><p><strong>Odd answers:</strong></p><ul>{told.value.problems.map((one) => <li key={one}>{one}</li>)}</ul></div> : null}
      {told.value && shown.length === 0 && <Panel title={name || "Services"}><Empty title={name ? `No service ${name} answers.` : "No service answers."}>A service appears here some seconds after it registers, and goes when it stops.</Empty></Panel>}
      {shown.map((one) => <Service key={`${one.name} ${one.version}`} of={one} />)}
    </>
  );
}

function Service({ of }: { of: Offered }) {
  const [open, set] = useState<Endpoint | undefined>();
  return (
    <Panel
      flush
      title={of.name}
      side={<span class="row small mute"><Dot tone={of.problems?.length ? "warn" : "ok"} />{of.version} · <span title={of.instances.join(", ")}>{plural(of.instances.length, "instance")}</span></span>}
    >
      <p class="pad mute">{of.description}</p>
      {of.problems?.length ? <div class="note" data-tone="warn"><ul>{of.problems.map((one) => <li key={one}>{one}</li>)}</ul></div> : null}
      <Scroll label={`Endpoints of ${of.name}`}>
        <table class="data endpoints">
          <thead><tr><th scope="col">Endpoint</th><th scope="col">Effect</th><th scope="col" class="num">Requests</th><th scope="col" class="num wide">Errors</th><th scope="col" class="num wide">Mean</th><th scope="col"><span class="vh">Call</span></th></tr></thead>
          <tbody>
            {of.endpoints.map((endpoint) => {
              const stats = of.stats?.[endpoint.name];
              const none = <Unknown why={`$SRV.STATS.${of.name} does not tell`} />;
              const from = `$SRV.STATS.${of.name}, since the service started`;
              return (
                <tr key={endpoint.name}>
                  <th scope="row"><code>{endpoint.name}</code>{endpoint.stream && <> <Badge>stream</Badge></>}<span class="sub wrap">{endpoint.description}</span></th>
                  <td><Badge tone={toneOf(endpoint.effect)}>{endpoint.effect}</Badge></td>
                  <td class="num" title={from}>{stats ? count(stats.requests) : none}{stats && stats.errors > 0 && <span class="narrow warntext sub">{count(stats.errors)} failed</span>}</td>
                  <td class="num wide" title={from}>{stats ? <span class={stats.errors > 0 ? "warntext" : undefined}>{count(stats.errors)}</span> : none}</td>
                  <td class="num wide" title={from}>{stats?.processing_ms_avg !== undefined && stats.requests > 0 ? `${stats.processing_ms_avg < 10 ? stats.processing_ms_avg.toFixed(1) : Math.round(stats.processing_ms_avg)} ms` : none}</td>
                  <td>{endpoint.path === null ? <span class="small mute" title={endpoint.subject}>not callable here</span> : <button type="button" class="btn quiet" aria-label={`Call ${of.name}.${endpoint.name}`} onClick={() => set(endpoint)}>Call …</button>}</td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </Scroll>
      {open && <CallDialog service={of.name} endpoint={open} onClose={() => set(undefined)} />}
    </Panel>
  );
}

/** Service and endpoint as they are called, which may differ from what they are named. */
function target(service: string, endpoint: Endpoint): [string, string] {
  const [, mesh, first, second] = (endpoint.path ?? "").split("/").map(decodeURIComponent);
  return mesh === "mesh" && first && second ? [first, second] : [service, endpoint.name];
}

/** A request as it was written by hand. */
function written(text: string): unknown {
  try {
    return JSON.parse(text.trim() || "{}");
  } catch (error) {
    throw new Refusal("not-json", `the request is no JSON: ${error instanceof Error ? error.message : "it cannot be read"}`, "mend it, or fill in the form");
  }
}

function CallDialog({ service, endpoint, onClose }: { service: string; endpoint: Endpoint; onClose: () => void }) {
  const field = useMemo(() => form(endpoint.request_schema), [endpoint]);
  const [value, set] = useState<unknown>(() => preset({ ...field, required: true }) ?? {});
  const [as, pick] = useState<"form" | "json">(field.kind === "json" ? "json" : "form");
  const [text, write] = useState("");
  const [answer, show] = useState<string | undefined>();
  const [refusal, refuse] = useState<Refusal | undefined>();
  const [busy, work] = useState<AbortController | undefined>();
  const [ms, took] = useState<number | undefined>();
  useEffect(() => () => busy?.abort(), [busy]);
  const lacks = as === "form" ? missing(field, value) : [];
  const switchTo = (next: "form" | "json"): void => {
    if (next === "json") write(JSON.stringify(value ?? {}, null, 2));
    else {
      try {
        set(written(text));
        refuse(undefined);
      } catch (error) {
        refuse(asRefusal(error));
        return;
      }
    }
    pick(next);
  };
  const send = async (): Promise<void> => {
    const stop = new AbortController();
    const started = performance.now();
    work(stop);
    refuse(undefined);
    show(undefined);
    try {
      const [first, second] = target(service, endpoint);
      const body: unknown = as === "json" ? written(text) : value;
      if (endpoint.stream) {
        const lines: string[] = [];
        for await (const frame of frames(first, second, body, stop.signal)) {
          lines.push(JSON.stringify(frame));
          show(lines.slice(-400).join("\n"));
        }
      } else {
        show(JSON.stringify(await call(first, second, body, stop.signal), null, 2));
      }
    } catch (error) {
      if (!stop.signal.aborted) refuse(asRefusal(error));
    }
    took(performance.now() - started);
    work(undefined);
  };
  return (
    <Dialog title={`${service}.${endpoint.name}`} open onClose={onClose} wide>
      <form onSubmit={(event) => { event.preventDefault(); void send(); }}>
        <p class="mute">{endpoint.description}</p>
        <div class="row wrap"><Badge tone={toneOf(endpoint.effect)}>{endpoint.effect}</Badge><code class="small mute">POST {endpoint.path ?? `/mesh/${service}/${endpoint.name}`}</code><span class="right"><Tabs label="Fill in as" options={[["form", "Form"], ["json", "JSON"]]} value={as} onPick={switchTo} /></span></div>
        {as === "form" ? <SchemaForm field={field} value={value} onChange={set} /> : (
          <div class="field"><label for="call-json">Request</label><textarea id="call-json" class="mono" rows={8} value={text} placeholder="{}" onInput={(event) => write(event.currentTarget.value)} /></div>
        )}
        <div class="acts">
          <span class="small mute grow">{lacks.length > 0 && `missing: ${lacks.join(", ")}`}</span>
          <button type="button" class="btn" onClick={onClose}>Close</button>
          {busy ? <button type="button" class="btn" onClick={() => busy.abort()}>Stop</button> : <button type="submit" class={endpoint.effect === "read" ? "btn primary" : "btn danger"} disabled={lacks.length > 0}>{endpoint.effect === "read" ? "Call" : `Call (${endpoint.effect})`}</button>}
        </div>
        <Refused why={refusal} />
        {answer !== undefined && <><p class="small mute" role="status">answered{ms !== undefined && ` in ${Math.round(ms)} ms`}</p><pre class="answer" tabIndex={0} aria-label="Answer">{answer.length > 200_000 ? `${answer.slice(0, 200_000)}\n… cut` : answer}</pre></>}
      </form>
    </Dialog>
  );
}

