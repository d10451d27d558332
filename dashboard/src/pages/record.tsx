// One record as it stands: its fields, who wrote it when, and every kept version with what changed. Shown as data.

import type { StateHistoried, StateRecord, Version } from "../api/types.ts";
import { call } from "../api/client.ts";
import { fieldName, fieldValue, between, story } from "../lib/diff.ts";
import { bytes, plural, stamp } from "../lib/format.ts";
import { isGuest, named, recordHref } from "../lib/key.ts";
import { useAsk } from "../store/ask.ts";
import { past, shown } from "../store/moment.ts";
import { at, keep, setQuery } from "../store/route.ts";
import { Ago, Badge, Empty, gaugeSource, Loading, Panel, Refused, Scroll, source } from "../ui/base.tsx";
import { TimeBar } from "../ui/timebar.tsx";

export function RecordPage({ id }: { id: string }) {
  const view = shown();
  const record = view?.records.get(id);
  const live = view?.gauges.get(id);
  return (
    <>
      <div class="head">
        <h1 tabIndex={-1}>{named(id, record?.record)}</h1>
        <code class="mute">{id}</code>
        {isGuest(id) && <a class="right" href={keep(recordHref(id))}>as a guest</a>}
      </div>
      <TimeBar />
      {!view && past.value?.is !== "refused" && <Loading what="the record" />}
      {view && !record && <Empty title="There is no such record at this moment.">It may have been retired, or not seen yet. Its history below tells.</Empty>}
      {record && <StaleNote record={record} />}
      <div class="split even">
        {record && (
          <Panel title="The record" side={<span class="small mute">revision {record.revision} · {stamp(record.at)}</span>}>
            <Tree value={record.record} />
            {live && !at.value && <><h3>Gauges <span class="small mute">{gaugeSource(id, live)}</span></h3><Tree value={live.record} /></>}
          </Panel>
        )}
        <History id={id} revision={record?.revision} />
      </div>
    </>
  );
}

export function StaleNote({ record }: { record: StateRecord }) {
  if (!record.stale) return null;
  return <div class="note" data-tone="warn"><p><strong>Stale</strong> since {stamp(record.stale.since)} (<Ago at={record.stale.since} />): {record.stale.reason}. What stands here is what was seen last.</p></div>;
}

/** JSON as nested lists. Text from the lab stays text. */
export function Tree({ value, name = "" }: { value: unknown; name?: string }) {
  if (typeof value !== "object" || value === null) return <span class="leaf mono">{leaf(name, value)}</span>;
  const entries = Array.isArray(value) ? value.map((one, at): [string, unknown] => [String(at), one]) : Object.entries(value);
  if (entries.length === 0) return <span class="mute">{Array.isArray(value) ? "none" : "nothing"}</span>;
  if (Array.isArray(value) && value.every((one) => typeof one !== "object" || one === null)) return <span class="leaf mono">{value.map((one) => leaf(name, one)).join(", ")}</span>;
  return (
    <dl class="tree">
      {entries.map(([key, inner]) => (
        <div key={key} class={isBranch(inner) ? "branch" : "twig"}>
          <dt>{key}</dt>
          <dd><Tree value={inner} name={key} /></dd>
        </div>
      ))}
    </dl>
  );
}

/** Whether it has parts that are worth lines of their own. */
function isBranch(value: unknown): boolean {
  if (typeof value !== "object" || value === null) return false;
  return Array.isArray(value) ? value.some((one) => typeof one === "object" && one !== null) : Object.keys(value).length > 0;
}

function leaf(name: string, value: unknown): string {
  if (value === null) return "—";
  if (value === "") return "“”";
  if (typeof value === "number" && name.endsWith("_bytes")) return `${value} (${bytes(value)})`;
  return String(value);
}

const VERSIONS = 60;

export function History({ id, revision }: { id: string; revision: number | undefined }) {
  const told = useAsk((signal) => call<StateHistoried>("state", "history", { select: id, limit: VERSIONS }, signal), [id, at.value ? 0 : revision]);
  const versions = told.value?.versions ?? [];
  return (
    <Panel title="History" side={<span class="small mute">{told.value?.truncated ? `the last ${versions.length} versions` : versions.length ? `${plural(versions.length, "version")}, all that are kept` : ""}</span>}>
      <Refused why={told.refusal} title="Not read" />
      {told.busy && !told.value && <Loading what="versions" />}
      {told.value && versions.length === 0 && <Empty title="No version is kept under this key." />}
      <ol class="plain history">
        {versions.map((version, index) => <Step key={version.revision} version={version} before={versions[index + 1]} cut={told.value?.truncated === true} shownNow={revision === version.revision} />)}
      </ol>
    </Panel>
  );
}

function Step({ version, before, cut, shownNow }: { version: Version; before: Version | undefined; cut: boolean; shownNow: boolean }) {
  const diff = between(before?.value?.record, version.value?.record);
  const fields = diff?.kind === "changed" ? Object.entries(diff.fields) : [];
  const said = !version.value ? "retired: seen to be gone" : !before && cut ? "the oldest version listed" : story(before?.value, version.value);
  return (
    <li aria-current={shownNow ? "true" : undefined}>
      <div class="row">
        <button type="button" class="btn quiet mono" title={source(version.key, version)} onClick={() => setQuery({ at: `r${version.revision}` })}>r{version.revision}</button>
        <time class="small mute" dateTime={version.at}>{stamp(version.at)}</time>
        {shownNow && <Badge tone="info">shown</Badge>}
      </div>
      <p>{said}</p>
      {version.value?.stale && <p class="small warntext">stale: {version.value.stale.reason}</p>}
      {fields.length > 0 && (
        <details>
          <summary class="small">{fields.length} fields</summary>
          <FieldTable fields={fields} />
        </details>
      )}
    </li>
  );
}

export function FieldTable({ fields }: { fields: [string, { before: unknown; after: unknown }][] }) {
  return (
    <Scroll label="changed fields">
      <table class="data diff">
        <thead><tr><th scope="col">Field</th><th scope="col">Before</th><th scope="col">After</th></tr></thead>
        <tbody>
          {fields.map(([pointer, field]) => (
            <tr key={pointer}>
              <th scope="row" title={pointer}>{fieldName(pointer)}</th>
              <td class="mono small"><del>{fieldValue(pointer, field.before)}</del></td>
              <td class="mono small"><ins>{fieldValue(pointer, field.after)}</ins></td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}
