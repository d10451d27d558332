// What differs between two moments, as the state's keeper tells it: by record, field by field.

import { useState } from "preact/hooks";
import { call, Refusal, serverNow } from "../api/client.ts";
import type { RecordDiff, StateDiffed } from "../api/types.ts";
import { words } from "../lib/diff.ts";
import { plural } from "../lib/format.ts";
import { named, recordHref, section } from "../lib/key.ts";
import { parseMoment } from "../lib/moment.ts";
import { useAsk } from "../store/ask.ts";
import { lab } from "../store/lab.ts";
import { route, setQuery } from "../store/route.ts";
import { Badge, Empty, Field, Loading, Panel, Refused } from "../ui/base.tsx";
import { FieldTable, Tree } from "./record.tsx";

const QUICK: [string, number][] = [["an hour", 3_600_000], ["a day", 86_400_000], ["a week", 7 * 86_400_000], ["a month", 30 * 86_400_000]];

export function Changes() {
  const query = route.value.query;
  const from = parseMoment(query.get("from")) ?? { time: new Date(Math.floor(serverNow() / 60_000) * 60_000 - 86_400_000).toISOString() };
  const to = parseMoment(query.get("to"));
  const fault = [from, to].find((one) => one instanceof Refusal);
  const told = useAsk<StateDiffed>((signal) => (fault ? Promise.reject(fault) : call<StateDiffed>("state", "diff", { from, ...(to ? { to } : {}) }, signal)), [JSON.stringify(from), JSON.stringify(to), to ? 0 : lab.value?.revision]);
  const value = fault ? undefined : told.value;
  const changes = Object.entries(value?.changes ?? {});
  const tone = { added: "ok", removed: "bad", changed: "info" } as const;
  return (
    <>
      <div class="head"><h1 tabIndex={-1}>Changes</h1><p class="mute">What differs between two moments.</p></div>
      <Panel title="Between">
        <div class="row wrap">
          <Moment name="from" label="From" value={query.get("from") ?? ""} />
          <Moment name="to" label="To" value={query.get("to") ?? ""} />
          <div class="quick" role="group" aria-label="Since">
            {QUICK.map(([text, ms]) => <button key={text} type="button" class="btn quiet" onClick={() => setQuery({ from: new Date(serverNow() - ms).toISOString(), to: null })}>since {text} ago</button>)}
          </div>
        </div>
      </Panel>
      <Panel title="Differences" side={value && <span class="small mute">revision {value.from} → {value.to} · {plural(changes.length, "record")}</span>}>
        <Refused why={fault ?? told.refusal} title="Cannot be told" />
        {told.busy && !value && !fault && <Loading what="the difference" />}
        {value && changes.length === 0 && <Empty title="Nothing differs.">The lab was the same at both moments.</Empty>}
        {value?.truncated && <p class="note" data-tone="warn">The answer was cut to fit: choose moments that lie nearer.</p>}
        {value?.unknown?.length ? <p class="note" data-tone="warn">{plural(value.unknown.length, "record")} cannot be compared, because a version is no longer kept: {value.unknown.slice(0, 8).join(", ")}</p> : null}
        <ul class="plain lines">
          {changes.map(([key, diff]) => (
            <li key={key}>
              <details>
                <summary><Badge tone={tone[diff.kind]}>{diff.kind}</Badge> <span>{named(key, nameOf(key, diff))}</span> <span class="mute">{diff.kind === "changed" ? words(diff) : ""}</span></summary>
                <p class="small"><a href={recordHref(key)}>{key}</a> <span class="mute">({section(key)})</span></p>
                {diff.kind === "changed" ? <FieldTable fields={Object.entries(diff.fields)} /> : <Tree value={diff.record} />}
              </details>
            </li>
          ))}
        </ul>
      </Panel>
    </>
  );
}

function nameOf(key: string, diff: RecordDiff): { [name: string]: unknown } | undefined {
  return diff.kind === "changed" ? lab.value?.records.get(key)?.record : diff.record;
}

function Moment({ name, label, value }: { name: string; label: string; value: string }) {
  const [text, set] = useState(value);
  const [last, remember] = useState(value);
  if (last !== value) {
    remember(value);
    set(value);
  }
  return (
    <Field label={label} name={name} hint={name === "to" ? "empty: now" : "revision, or time; empty: a day ago"}>
      <input id={name} value={text} placeholder={name === "to" ? "now" : "r47 or 2026-01-31T14:00"} aria-describedby={`${name}-hint`} onInput={(event) => set(event.currentTarget.value)} onChange={(event) => setQuery({ [name]: event.currentTarget.value || null })} />
    </Field>
  );
}
