// The audit log: who did what to the mesh, newest first, and whether its chain holds.

import { useState } from "preact/hooks";
import { asRefusal, call, type Refusal } from "../api/client.ts";
import type { AuditListed, AuditRow, AuditVerified } from "../api/types.ts";
import { KINDS, newest } from "../lib/audit.ts";
import { count, inline, plural, stamp } from "../lib/format.ts";
import { isGuest, recordHref } from "../lib/key.ts";
import { useAsk } from "../store/ask.ts";
import { plansChanged } from "../store/lab.ts";
import { route, setQuery } from "../store/route.ts";
import { Ago, Badge, Empty, Loading, Panel, Refused, Scroll, type Tone } from "../ui/base.tsx";

const TONES: [RegExp, Tone][] = [[/refused|dropped|revoked|void|frozen|store\.changed/, "bad"], [/approved|ended|confirmed|created|added/, "ok"], [/begun|sent|claimed|applied|made/, "info"]];

export function Audit() {
  const kind = route.value.query.get("kind") ?? "";
  const plan = route.value.query.get("plan") ?? "";
  const before = Number(route.value.query.get("before")) || undefined;
  const filter = { ...(kind ? { kind } : {}), ...(plan ? { plan } : {}) };
  const told = useAsk((signal) => newest((asked) => call<AuditListed>("audit", "list", asked, signal), filter, before), [kind, plan, before, before ? 0 : plansChanged.value]);
  const rows = told.value?.rows ?? [];
  return (
    <>
      <div class="head"><h1 tabIndex={-1}>Audit</h1><p class="mute">Append-only and chained by hash: a missing or changed entry shows.</p></div>
      <Verify />
      <Panel
        title="Entries" flush
        side={
          <div class="row wrap">
            <label class="inline"><span class="vh">Kind</span><select value={kind} onChange={(event) => setQuery({ kind: event.currentTarget.value || null, before: null })}><option value="">every kind</option>{KINDS.map((one) => <option key={one} value={one}>{one}</option>)}</select></label>
            <label class="inline"><span class="vh">Plan</span><input class="find" placeholder="plan p-…" value={plan} onChange={(event) => setQuery({ plan: event.currentTarget.value.trim() || null, before: null })} /></label>
          </div>
        }
      >
        <Refused why={told.refusal} title="Not read" />
        {told.busy && !told.value && <Loading what="the log" />}
        {told.value?.readTo && <p class="note" data-tone="warn">The log was read up to entry {count(told.value.readTo)}: what fits and came later is missing here. Name a plan and a kind, so that fewer fit.</p>}
        {told.value && rows.length === 0 && <Empty title="No entry fits." />}
        {rows.length > 0 && (
          <Scroll label="Audit entries">
            <table class="data audit">
              <thead><tr><th scope="col" class="num wide">No.</th><th scope="col">When</th><th scope="col">What</th><th scope="col" class="wide">Who</th><th scope="col">Details</th></tr></thead>
              <tbody>{rows.map((row) => <Entry key={row.sequence} row={row} />)}</tbody>
            </table>
          </Scroll>
        )}
        <div class="acts pad">
          {before && <button type="button" class="btn" onClick={() => setQuery({ before: null })}>Newest</button>}
          {told.value?.upTo && <button type="button" class="btn" onClick={() => setQuery({ before: String(told.value?.upTo) })}>Older</button>}
          {told.value?.older && !told.value.upTo && <p class="small mute">Older ones fit as well: name a plan and a kind to see them.</p>}
        </div>
      </Panel>
    </>
  );
}

function Entry({ row }: { row: AuditRow }) {
  const { entry, sequence } = row;
  const tone = TONES.find(([word]) => word.test(entry.kind))?.[1] ?? "mute";
  return (
    <tr title={`entry ${sequence} · hash ${entry.hash}`}>
      <td class="num wide mute">{sequence}</td>
      <td class="small nowrap" title={stamp(entry.at)}><Ago at={entry.at} /></td>
      <td><Badge tone={tone}>{entry.kind}</Badge><span class="sub narrow">{entry.actor ?? entry.agent}</span></td>
      <td class="wide">{entry.actor ?? entry.agent}{entry.actor && entry.actor !== entry.agent && <span class="sub">noted by {entry.agent}</span>}</td>
      <td class="small details">{Object.entries(entry.details).map(([name, value]) => <Detail key={name} name={name} value={value} />)}</td>
    </tr>
  );
}

function Detail({ name, value }: { name: string; value: unknown }) {
  const text = inline(value);
  const href = typeof value !== "string" ? undefined : /^p-[a-z0-9]+$/.test(value) ? `#/plan/${value}` : isGuest(value) ? recordHref(value) : undefined;
  return <span class="pair"><span class="mute">{name}</span> {href ? <a href={href}>{text}</a> : <span class="mono">{text.length > 160 ? `${text.slice(0, 160)}…` : text}</span>}</span>;
}

function Verify() {
  const [told, set] = useState<AuditVerified | undefined>();
  const [refusal, refuse] = useState<Refusal | undefined>();
  const [busy, work] = useState(false);
  const verify = async (): Promise<void> => {
    work(true);
    refuse(undefined);
    try {
      set(await call<AuditVerified>("audit", "verify"));
    } catch (error) {
      refuse(asRefusal(error));
    }
    work(false);
  };
  return (
    <section class="decide" aria-label="Verification">
      <div class="grow" aria-live="polite">
        {!told && <p class="mute">Reading every entry again tells whether the chain holds.</p>}
        {told && <p><Badge tone={told.intact ? "ok" : "bad"}>{told.intact ? "intact" : "broken"}</Badge> {plural(told.entries, "entry", "entries")} read{told.fault && `: ${told.fault}`}</p>}
        {told && <p class="small digest"><span class="mute">head</span> <code>{told.head}</code></p>}
        <Refused why={refusal} title="Not verified" />
      </div>
      <div class="acts"><button type="button" class="btn primary" disabled={busy} onClick={() => void verify()}>{busy ? "reading …" : "Verify"}</button></div>
    </section>
  );
}
