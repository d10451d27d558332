// The moment looked at: now, or any time the mesh remembers. A slider over a window of hours or days, marks where
// something changed, and a field for an exact time. It changes the address only; who shows the lab follows that.

import { useMemo } from "preact/hooks";
import { clock, localInput, moment, stamp } from "../lib/format.ts";
import { tick } from "../store/clock.ts";
import { happenings } from "../store/lab.ts";
import type { View } from "../store/lab.ts";
import { past, shown } from "../store/moment.ts";
import { at, atFault, route, setQuery } from "../store/route.ts";
import { Refused } from "./base.tsx";

const WINDOWS: [string, string, number][] = [
  ["1h", "1 hour", 3_600_000],
  ["24h", "24 hours", 86_400_000],
  ["7d", "7 days", 7 * 86_400_000],
  ["30d", "30 days", 30 * 86_400_000],
];
const STEPS = 1000;

export function TimeBar() {
  const now = tick.value;
  const moment_ = at.value;
  const chosen = route.value.query.get("span") ?? "24h";
  const width = WINDOWS.find(([name]) => name === chosen)?.[2] ?? 86_400_000;
  const view = shown();
  const time = moment_ ? ("time" in moment_ ? moment(moment_.time) : view ? newest(view) : now) : now;
  const end = now;
  const start = end - width;
  const marks = useMemo(() => {
    const places = happenings.value.map((one) => Math.round(((moment(one.at) - start) / width) * 200) / 2);
    return [...new Set(places)].filter((place) => place >= 0 && place <= 100);
  }, [happenings.value, start, width]);
  const pick = (value: number): void => {
    if (value >= STEPS) return setQuery({ at: null });
    setQuery({ at: new Date(start + (value / STEPS) * width).toISOString().replace(/\.\d+Z$/, "Z") });
  };
  const place = moment_ ? Math.max(0, Math.min(STEPS - 1, Math.round(((time - start) / width) * STEPS))) : STEPS;
  const before = past.value;
  return (
    <section class="timebar" aria-label="The moment looked at" data-past={Boolean(moment_)}>
      <div class="first">
        <strong class="what">{moment_ ? <>As it was {"time" in moment_ ? stamp(moment_.time) : `at revision ${moment_.revision}`}</> : <>Now</>}</strong>
        <span class="small mute" data-testid="moment">
          {view ? <>revision {view.revision}{!moment_ && <> · told {clock(view.asOf)}</>}</> : before?.is === "reading" ? "reading …" : ""}
        </span>
      </div>
      <div class="slider">
          <svg viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">
            {marks.map((x) => <rect key={x} x={x} width="0.35" height="8" />)}
          </svg>
          <input
            type="range" min={0} max={STEPS} step={1} value={place}
            aria-label={`Time, the last ${WINDOWS.find(([name]) => name === chosen)?.[1]}`}
            aria-valuetext={moment_ ? stamp(time) : "now"}
            onInput={(event) => pick(Number(event.currentTarget.value))}
          />
          <div class="ends small mute" aria-hidden="true"><span>{stamp(start)?.slice(0, 16)}</span><span>now</span></div>
        </div>
      <div class="pick">
        <label class="inline"><span class="vh">Window</span>
          <select value={chosen} onChange={(event) => setQuery({ span: event.currentTarget.value })}>
            {WINDOWS.map(([name, text]) => <option key={name} value={name}>{text}</option>)}
          </select>
        </label>
        <label class="inline"><span class="vh">At</span>
          <input
            type="datetime-local" step={1} value={moment_ ? localInput(time) : ""} max={localInput(now)}
            onChange={(event) => {
              const picked = Date.parse(event.currentTarget.value);
              setQuery({ at: Number.isNaN(picked) ? null : new Date(picked).toISOString() });
            }}
          />
        </label>
      </div>
      {atFault.value && (
        <div class="below">
          <Refused why={atFault.value} title="This is now" />
          <div class="acts"><button type="button" class="btn" onClick={() => setQuery({ at: null })}>Back to now</button></div>
        </div>
      )}
      {moment_ && (
        <div class="acts below">
          <button type="button" class="btn" onClick={() => setQuery({ at: null })}>Back to now</button>
          <a class="btn quiet" href={`#/changes?from=${encodeURIComponent("time" in moment_ ? moment_.time : `r${moment_.revision}`)}`}>What changed since</a>
          <span class="small mute">Gauges (load, memory used) are not kept, so they are unknown here.</span>
        </div>
      )}
      <div class="below">
      {before?.is === "refused" && <Refused why={before.why} title="That moment cannot be shown" />}
      {before?.is === "read" && before.view.unknown.length > 0 && (
        <p class="note" data-tone="warn">{before.view.unknown.length} records are unknown at that moment: their versions are no longer kept ({before.view.unknown.slice(0, 5).join(", ")}).</p>
      )}
      </div>
    </section>
  );
}

/** When the last of its records was written. */
function newest(view: View): number {
  return [...view.records.values()].reduce((last, record) => Math.max(last, moment(record.at)), 0);
}
