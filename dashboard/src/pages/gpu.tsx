// The light of a gaming PC, as its own machine tells it; silence is a no. An operator may keep the GPU from here.

import { useState } from "preact/hooks";
import { asRefusal, call, type Refusal } from "../api/client.ts";
import type { GpuSeen, StateRecord } from "../api/types.ts";
import { bytes, span, stamp } from "../lib/format.ts";
import { recordHref } from "../lib/key.ts";
import { may } from "../store/session.ts";
import { Ago, Bar, Dialog, Fact, Field, Refused, source, toneOf, Unknown } from "../ui/base.tsx";
import { say } from "../ui/toast.tsx";

export function GpuCard({ host, seen, record, onChanged }: { host: string; seen: GpuSeen; record: StateRecord | undefined; onChanged: () => void }) {
  const [asking, ask] = useState(false);
  const [refusal, refuse] = useState<Refusal | undefined>();
  const gauges = seen.gauges;
  const key = `gpu.${host}`;
  const read = seen.read_at ? `gauge ${key} read ${stamp(seen.read_at)}` : `${key}: nothing was read that still counts`;
  const unlock = async (): Promise<void> => {
    try {
      await call("gpu", "unlock", { host });
      say(`${host}: the lock is ended; the light is judged anew`);
      refuse(undefined);
    } catch (error) {
      refuse(asRefusal(error));
    }
    onChanged();
  };
  return (
    <article class="gpucard" data-light={gauges?.light ?? "unknown"}>
      <div class="row">
        <span class="light" data-tone={gauges ? toneOf(gauges.light) : "mute"} aria-hidden="true" />
        <div class="grow">
          <p><a class="strong" href={recordHref(key)}>{host}</a> <span title={read}>{gauges ? gauges.light : <Unknown why={read} />}</span></p>
          <p class="small mute" title={read}>{gauges?.text ?? seen.text}{gauges && <> · since <Ago at={gauges.since} fine /></>}</p>
        </div>
        {may("operator") && (seen.gpu.lock ? <button type="button" class="btn" onClick={() => void unlock()}>Unlock</button> : <button type="button" class="btn" onClick={() => ask(true)}>Lock …</button>)}
      </div>
      {seen.gpu.lock && <p class="small">Kept by {seen.gpu.lock.by ?? "somebody at the machine"} until {stamp(seen.gpu.lock.until)}</p>}
      {(seen.gpu.cards ?? []).map((card) => {
        const told = gauges?.cards?.find((one) => one.id === card.id);
        return (
          <dl key={card.id} class="meters">
            <div class="meter"><dt><Fact of={key} record={record}>{card.name}</Fact></dt><dd><Bar share={told?.utilization_percent === undefined ? undefined : told.utilization_percent / 100} label="load" title={read} /><span class="num">{told?.utilization_percent === undefined ? <Unknown why={read} /> : `${told.utilization_percent} %`}</span></dd></div>
            <div class="meter"><dt>Memory</dt><dd><Bar share={told?.vram_used_bytes === undefined ? undefined : told.vram_used_bytes / card.vram_bytes} label="memory" title={read} /><span class="num">{told?.vram_used_bytes === undefined ? <Unknown why={read} /> : `${bytes(told.vram_used_bytes)} of ${bytes(card.vram_bytes)}`}</span></dd></div>
          </dl>
        );
      })}
      <p class="small mute" title={read}>
        {gauges ? <>{gauges.running ?? 0} running, {gauges.waiting ?? 0} waiting{gauges.loaded?.length ? ` · in memory: ${gauges.loaded.join(", ")}` : ""}{gauges.idle_s !== undefined ? ` · untouched for ${span(gauges.idle_s * 1000)}` : ""}</> : <>what it works on is not known{record ? "" : ` · ${source(key, record)}`}</>}
      </p>
      <Refused why={refusal} />
      <LockDialog host={host} open={asking} onClose={() => ask(false)} onDone={() => { ask(false); onChanged(); }} />
    </article>
  );
}

function LockDialog({ host, open, onClose, onDone }: { host: string; open: boolean; onClose: () => void; onDone: () => void }) {
  const [minutes, set] = useState(60);
  const [refusal, refuse] = useState<Refusal | undefined>();
  const lock = async (): Promise<void> => {
    try {
      await call("gpu", "lock", { host, minutes });
      say(`${host} is kept for ${minutes} minutes`);
      onDone();
    } catch (error) {
      refuse(asRefusal(error));
    }
  };
  return (
    <Dialog title={`Keep the GPU of ${host}`} open={open} onClose={onClose}>
      <form onSubmit={(event) => { event.preventDefault(); void lock(); }}>
        <p>Nothing of the mesh runs there until then. What runs now is cut or may end, as the machine is configured.</p>
        <Field label="Minutes" name="gpu-minutes" hint="a day at most">
          <input id="gpu-minutes" type="number" min={1} max={1440} value={minutes} onInput={(event) => set(Number(event.currentTarget.value))} aria-describedby="gpu-minutes-hint" />
        </Field>
        <Refused why={refusal} />
        <div class="acts"><button class="btn" type="button" onClick={onClose}>Cancel</button><button class="btn primary" type="submit">Lock</button></div>
      </form>
    </Dialog>
  );
}
