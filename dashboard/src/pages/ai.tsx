// Who answers AI requests, and why: backends, the router's decision for a request, jobs that wait, what was used and what it
// cost, and a box to ask in. Conversations stay in this page; the mesh keeps none.

import { signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { asRefusal, call, frames, serverNow, type Refusal } from "../api/client.ts";
import type { AiUsed, GpuSeen, Job, ModelRow, Origin, Provider, Routed, UsageRow } from "../api/types.ts";
import { count, dollars, percent, plural, share, span, stamp } from "../lib/format.ts";
import { recordHref } from "../lib/key.ts";
import { useAsk } from "../store/ask.ts";
import { tick } from "../store/clock.ts";
import { lab } from "../store/lab.ts";
import { route, setQuery } from "../store/route.ts";
import { may } from "../store/session.ts";
import { Ago, Badge, Bar, Dot, Empty, Fact, Loading, Panel, Refused, Scroll, source, Tabs, toneOf, Unknown } from "../ui/base.tsx";
import { Bars } from "../ui/chart.tsx";
import { GpuCard } from "./gpu.tsx";
import { rows } from "./overview.tsx";

/** Rises with every answer of the chat: the sums are another then. */
const answered = signal(0);

export function Ai() {
  const models = useAsk((signal) => call<{ models: ModelRow[] }>("ai", "models", {}, signal), [Math.floor(tick.value / 20_000)]);
  const rowsOf = models.value?.models ?? [];
  return (
    <>
      <div class="head"><h1 tabIndex={-1}>AI</h1><p class="mute">Who answers, why, and what it costs.</p></div>
      <Refused why={models.refusal} title="Models not read" />
      <div class="split even">
        <div class="stack">
          <Chat models={rowsOf} />
          <Route models={rowsOf} />
        </div>
        <div class="stack">
          <Backends models={rowsOf} busy={models.busy && !models.value} />
          <Gpus />
          <Jobs />
          <Usage />
        </div>
      </div>
    </>
  );
}

function Gpus() {
  const gpus = useAsk((signal) => call<{ gpus: Record<string, GpuSeen> }>("gpu", "get", {}, signal), [Math.floor(tick.value / 10_000)]);
  const all = Object.entries(gpus.value?.gpus ?? {});
  if (all.length === 0) return null;
  return <Panel title="GPU semaphore">{all.map(([host, seen]) => <GpuCard key={host} host={host} seen={seen} record={lab.value?.records.get(`gpu.${host}`)} onChanged={gpus.again} />)}</Panel>;
}

function Backends({ models, busy }: { models: ModelRow[]; busy: boolean }) {
  const view = lab.value;
  const providers = view ? rows<Provider>(view, "provider") : [];
  return (
    <Panel title="Backends" side={<span class="mute">{providers.length || ""}</span>}>
      {busy && <Loading what="models" />}
      {view && providers.length === 0 && <Empty title="No backend is configured.">Write <code>[[ai.backend]]</code> in <code>nhi.toml</code>, or a cloud's key in <code>.env</code>.</Empty>}
      <ul class="plain cards">
        {providers.map(({ key, record, value }) => {
          const id = key.slice("provider.".length);
          const mine = models.filter((one) => !one.alias && one.providers.includes(id));
          const free = mine.some((one) => one.available);
          return (
            <li key={key}>
              <div class="row"><Dot tone={mine.length === 0 ? "mute" : free ? "ok" : "bad"} /><a class="strong" href={recordHref(key)} title={source(key, record)}>{id}</a><Badge>{value.kind}</Badge>{value.home ? <Badge tone="ok">at home</Badge> : <Badge>cloud</Badge>}{value.gpu && <Badge tone="info">GPU of {value.gpu}</Badge>}<span class="right small mute">{mine.length === 0 ? "not asked yet" : free ? "can answer" : "cannot answer now"}</span></div>
              <ul class="plain models small">
                {(value.models ?? []).map((model) => {
                  const row = mine.find((one) => one.id === model.name || one.model?.name === model.name);
                  return (
                    <li key={model.name} title={row?.text}>
                      <code>{model.name}</code>{" "}
                      <span class="mute"><Fact of={key} record={record}>{model.context_tokens === undefined ? undefined : `${count(model.context_tokens)} tokens`}</Fact>{model.tools && " · tools"}{model.vision && " · pictures"}{model.embeds && " · embeds"}{model.elsewhere && " · answers from a cloud"}{model.price && ` · ${dollars(model.price.input)} / ${dollars(model.price.output)} a million tokens`}</span>
                    </li>
                  );
                })}
                {(value.models ?? []).length === 0 && <li class="mute">It has not told its models yet.</li>}
              </ul>
            </li>
          );
        })}
      </ul>
    </Panel>
  );
}

function ModelPick({ id, models, value, onPick }: { id: string; models: ModelRow[]; value: string; onPick: (value: string) => void }) {
  const names = models.length ? models : [{ id: "auto", alias: true, available: true, providers: [], text: "" }];
  const options = (alias: boolean) => names.filter((one) => one.alias === alias && !one.model?.embeds).map((one) => <option key={one.id} value={one.id}>{one.id}{one.available ? "" : " (not now)"}</option>);
  return (
    <select id={id} value={value} onChange={(event) => onPick(event.currentTarget.value)}>
      <optgroup label="By purpose">{options(true)}</optgroup>
      <optgroup label="By name">{options(false)}</optgroup>
    </select>
  );
}

const PRIVACY: [string, string][] = [["any", "any backend"], ["no-training", "none that trains"], ["home", "never leaves home"]];

function PrivacyPick({ id, value, onPick }: { id: string; value: string; onPick: (value: string) => void }) {
  return <select id={id} value={value} onChange={(event) => onPick(event.currentTarget.value)}>{PRIVACY.map(([name, text]) => <option key={name} value={name}>{text}</option>)}</select>;
}

type Turn = { role: "user" | "assistant"; content: string; origin?: Origin; refusal?: Refusal; ms?: number; stopped?: boolean };
type Chunk = { choices?: { delta?: { content?: string } }[]; nhi?: Origin };

function Chat({ models }: { models: ModelRow[] }) {
  const [turns, set] = useState<Turn[]>([]);
  const [text, write] = useState("");
  const [model, pick] = useState("auto");
  const [privacy, setPrivacy] = useState("any");
  const [busy, work] = useState<AbortController | undefined>();
  const log = useRef<HTMLDivElement>(null);
  useEffect(() => () => busy?.abort(), [busy]);
  useEffect(() => {
    log.current?.scrollTo({ top: log.current.scrollHeight });
  }, [turns]);

  const ask = async (): Promise<void> => {
    const question = text.trim();
    if (!question || busy) return;
    const stop = new AbortController();
    const past = [...turns, { role: "user" as const, content: question }];
    const answer: Turn = { role: "assistant", content: "" };
    const started = performance.now();
    const show = (): void => set([...past, { ...answer }]);
    write("");
    work(stop);
    show();
    const messages = past.filter((one) => !one.refusal && (one.content || one.role === "user")).map(({ role, content }) => ({ role, content }));
    try {
      for await (const frame of frames("ai", "chat", { model, stream: true, messages, nhi: { privacy } }, stop.signal)) {
        const chunk = frame as Chunk;
        answer.content += chunk.choices?.[0]?.delta?.content ?? "";
        if (chunk.nhi) answer.origin = chunk.nhi;
        show();
      }
    } catch (error) {
      if (stop.signal.aborted) answer.stopped = true;
      else answer.refusal = asRefusal(error);
    }
    answer.ms = performance.now() - started;
    answered.value += 1;
    show();
    work(undefined);
  };

  return (
    <Panel title="Ask" side={turns.length > 0 && !busy ? <button type="button" class="btn quiet" onClick={() => set([])}>Forget this</button> : undefined}>
      {!may("agent") ? <Empty title="A viewer asks nobody." /> : (
        <form class="chat" onSubmit={(event) => { event.preventDefault(); void ask(); }}>
          <div class="log" ref={log} role="log" aria-label="Conversation" tabIndex={0}>
            {turns.length === 0 && <p class="mute">Ask something: the router picks who answers, and each answer says who and why.</p>}
            {turns.map((turn, at) => <TurnView key={at} turn={turn} live={busy !== undefined && at === turns.length - 1} />)}
          </div>
          <label class="vh" for="question">Your question</label>
          <textarea id="question" rows={2} value={text} placeholder="Ask something" onInput={(event) => write(event.currentTarget.value)} onKeyDown={(event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); void ask(); } }} />
          <div class="row wrap">
            <span class="pair"><label class="small mute" for="chat-model">Model</label> <ModelPick id="chat-model" models={models} value={model} onPick={pick} /></span>
            <span class="pair"><label class="small mute" for="chat-privacy">Privacy</label> <PrivacyPick id="chat-privacy" value={privacy} onPick={setPrivacy} /></span>
            <span class="right">{busy ? <button type="button" class="btn" onClick={() => busy.abort()}>Stop</button> : <button type="submit" class="btn primary" disabled={!text.trim()}>Ask</button>}</span>
          </div>
        </form>
      )}
    </Panel>
  );
}

function TurnView({ turn, live }: { turn: Turn; live: boolean }) {
  return (
    <article class="turn" data-role={turn.role}>
      <p class="who small mute">{turn.role === "user" ? "you" : turn.origin ? `${turn.origin.provider} / ${turn.origin.model}` : live ? "…" : "nobody"}</p>
      {turn.content && <p class="text">{turn.content}</p>}
      {live && !turn.content && <p class="mute" role="status">waiting for the first word …</p>}
      {turn.stopped && <p class="small mute">stopped by you; the work upstream is cancelled</p>}
      <Refused why={turn.refusal} title="No answer" />
      {turn.origin && <p class="small mute why">{turn.origin.reason}{turn.ms !== undefined && ` · ${span(turn.ms)}`}{turn.origin.failed?.map((one) => <span key={one.provider}> · {one.provider} failed: {one.reason}</span>)}{turn.origin.seams?.map((one) => <span key={one.at}> · {one.provider} went on at character {one.at}</span>)}</p>}
    </article>
  );
}

function Route({ models }: { models: ModelRow[] }) {
  const [text, write] = useState("fix this bug");
  const [model, pick] = useState("auto");
  const [privacy, setPrivacy] = useState("any");
  const [asked, set] = useState({ text: "fix this bug", model: "auto", privacy: "any", turn: 0 });
  const told = useAsk((signal) => call<Routed>("ai", "route", { model: asked.model, messages: [{ role: "user", content: asked.text }], nhi: { privacy: asked.privacy } }, signal), [asked]);
  return (
    <Panel title="Who would answer, and why">
      <form onSubmit={(event) => { event.preventDefault(); set({ text, model, privacy, turn: asked.turn + 1 }); }}>
        <div class="row wrap">
          <label class="vh" for="route-text">A request</label>
          <input id="route-text" class="grow" value={text} onInput={(event) => write(event.currentTarget.value)} />
          <label class="vh" for="route-model">Model</label><ModelPick id="route-model" models={models} value={model} onPick={pick} />
          <label class="vh" for="route-privacy">Privacy</label><PrivacyPick id="route-privacy" value={privacy} onPick={setPrivacy} />
          <button type="submit" class="btn">Explain</button>
        </div>
      </form>
      <p class="small mute">Nobody is asked by this.</p>
      <Refused why={told.refusal} />
      {told.value && (
        <>
          <p class="small">Read as {told.value.read_as.map((word) => <Badge key={word}>{word}</Badge>)}</p>
          {told.value.order.length === 0 ? <p class="note" data-tone="bad">Nobody can answer this now{told.value.again_at ? `; it may be otherwise ${stamp(told.value.again_at)}` : ""}.</p> : (
            <ol class="order">{told.value.order.map((one) => <li key={`${one.provider} ${one.model}`}><strong>{one.provider}</strong> <code class="small">{one.model}</code><span class="sub">{one.reason}</span></li>)}</ol>
          )}
          {told.value.lost.length > 0 && (
            <Scroll label="Backends that would not be asked">
              <table class="data"><thead><tr><th scope="col">Not asked</th><th scope="col">Why</th></tr></thead><tbody>{told.value.lost.map((one, at) => <tr key={at}><th scope="row">{one.provider}<span class="sub mono">{one.model}</span></th><td><Badge>{one.why}</Badge> <span class="small">{one.text}{one.until && ` · until ${stamp(one.until)}`}</span></td></tr>)}</tbody></table>
            </Scroll>
          )}
        </>
      )}
    </Panel>
  );
}

function Jobs() {
  const told = useAsk((signal) => call<{ jobs: Job[] }>("ai", "jobs", {}, signal), [Math.floor(tick.value / 10_000)]);
  const jobs = told.value?.jobs ?? [];
  const open = jobs.filter((one) => one.state.is === "waiting" || one.state.is === "running").length;
  return (
    <Panel title="Jobs" side={told.value && <span class="small mute">{open} open</span>}>
      <Refused why={told.refusal} title="Not read" />
      {told.value && jobs.length === 0 && <Empty title="No job waits.">A job is a request that waits until somebody can answer it: <code>nhi ai submit "…"</code>.</Empty>}
      <ul class="plain lines">
        {jobs.map((job) => (
          <li key={job.job}>
            <p class="row"><code class="small">{job.job}</code><Badge tone={toneOf(job.state.is)}>{job.state.is}</Badge><span class="small mute right">{job.by} · {job.asked} · {job.priority} · <Ago at={job.at} /></span></p>
            {(job.state.text || job.state.until || job.state.attempt) && <p class="small mute">{job.state.text}{job.state.attempt && `try ${job.state.attempt}`}{job.state.until && `kept until ${stamp(job.state.until)}`}</p>}
          </li>
        ))}
      </ul>
    </Panel>
  );
}

type By = "provider" | "caller" | "project";

function Usage() {
  const by = (route.value.query.get("by") ?? "provider") as By;
  const days = Number(route.value.query.get("days") ?? 14);
  const beat = Math.floor(tick.value / 20_000);
  const daily = useAsk((signal) => call<AiUsed>("ai", "usage", { by: "day", days }, signal), [days, beat, answered.value]);
  const summed = useAsk((signal) => call<AiUsed>("ai", "usage", { by, days }, signal), [by, days, beat, answered.value]);
  const byDay = new Map((daily.value?.rows ?? []).map((row) => [row.of, row]));
  const dates = Array.from({ length: days }, (_, at) => new Date(serverNow() - (days - 1 - at) * 86_400_000).toISOString().slice(0, 10));
  const bars = (value: (row: UsageRow) => number, text: (row: UsageRow) => string) => dates.map((date) => {
    const row = byDay.get(date);
    return { label: date.slice(5), value: row && value(row), text: row ? text(row) : "", title: row ? `${date}: ${text(row)} · ai.usage {by: day}, lines of the ledger` : `${date}: no line in the ledger` };
  });
  const paid = (daily.value?.rows ?? []).some((row) => row.cost > 0);
  return (
    <Panel title="Usage and cost" side={<Tabs label="Days" options={[["7", "7 d"], ["14", "14 d"], ["30", "30 d"]]} value={String(days)} onPick={(value) => setQuery({ days: value })} />}>
      <Refused why={daily.refusal ?? summed.refusal} title="Not read" />
      {daily.value && daily.value.rows.length === 0 && <Empty title={`No request in ${days} days.`}>Every request leaves a line without anybody's text; they are summed here.</Empty>}
      {daily.value && daily.value.rows.length > 0 && (
        <>
          <Bars title="Requests a day" bars={bars((row) => row.requests, (row) => plural(row.requests, "request"))} axis={(value) => String(Math.round(value * 10) / 10)} />
          <Bars title="Tokens a day" bars={bars((row) => row.input_tokens + row.output_tokens, (row) => `${count(row.input_tokens)} in, ${count(row.output_tokens)} out`)} axis={(value) => (value >= 1000 ? `${Math.round(value / 1000)}k` : String(Math.round(value)))} />
          {paid ? <Bars title="Cost a day" bars={bars((row) => row.cost, (row) => dollars(row.cost) ?? "")} axis={(value) => dollars(value) ?? ""} /> : <p class="small mute">Nothing of it cost money: no backend with a price was asked.</p>}
        </>
      )}
      {(summed.value?.rows.length ?? 0) > 0 && (
        <>
          <Tabs label="Summed by" options={[["provider", "by backend"], ["caller", "by caller"], ["project", "by project"]]} value={by} onPick={(value) => setQuery({ by: value })} />
          <Scroll label="Sums">
            <table class="data nums">
              <thead><tr><th scope="col">{by === "provider" ? "Backend" : by === "caller" ? "Caller" : "Project"}</th><th scope="col">Requests</th><th scope="col">Failed</th><th scope="col">Tokens in</th><th scope="col">Tokens out</th><th scope="col">First word</th><th scope="col">Cost</th></tr></thead>
              <tbody>{summed.value?.rows.map((row) => <tr key={row.of} title={`ai.usage {by: ${by}, days: ${days}}`}><th scope="row">{row.of || "none said"}</th><td>{count(row.requests)}</td><td>{count(row.failed)}</td><td>{count(row.input_tokens)}</td><td>{count(row.output_tokens)}</td><td>{row.first_token_ms === undefined ? <Unknown why="no request of it had a first word" /> : `${count(row.first_token_ms)} ms`}</td><td>{dollars(row.cost)}</td></tr>)}</tbody>
            </table>
          </Scroll>
        </>
      )}
      {summed.value?.quotas.length ? (
        <>
          <h3>Quotas</h3>
          <ul class="plain lines tight">{summed.value.quotas.map((one) => <li key={`${one.provider} ${one.what}`} class="storagerow" title={`shared counter quota.${one.provider}; starts anew ${stamp(one.resets_at)}`}><span>{one.provider} <span class="small mute">{one.what}</span></span><Bar share={share(one.used, one.limit)} label={`${one.provider} ${one.what}`} title={`${count(one.used)} of ${count(one.limit)}`} /><span class="num small">{percent(share(one.used, one.limit))} of {count(one.limit)}</span></li>)}</ul>
        </>
      ) : null}
    </Panel>
  );
}
