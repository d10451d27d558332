// One plan, whole: what it relies on, every step, what it touches, what it changes, how it is taken back; yes and no to
// its digest; and its run, step by step as it goes. What is said yes to is what is shown: the digest goes with it.

import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { asRefusal, call, frames, serverNow, type Refusal } from "../api/client.ts";
import type { Fact as FactOf, PlanRecord, Run, RunFrame, Step } from "../api/types.ts";
import { sentence } from "../lib/facts.ts";
import { clock, inline, plural, stamp } from "../lib/format.ts";
import { named, recordHref } from "../lib/key.ts";
import { destroyed, isTyped } from "../lib/plan.ts";
import { useAsk } from "../store/ask.ts";
import { lab, plansChanged, runs } from "../store/lab.ts";
import { may, me } from "../store/session.ts";
import { Ago, Badge, Dialog, Empty, Field, Loading, Panel, Refused, Scroll, toneOf } from "../ui/base.tsx";
import { say } from "../ui/toast.tsx";
import { StateBadge, stateWord } from "./plans.tsx";

export const OVER = new Set(["done", "failed", "compensated", "needs-human", "cancelled"]);

const nameOf = (key: string): string => named(key, lab.value?.records.get(key)?.record);

export function PlanPage({ id }: { id: string }) {
  const got = useAsk((signal) => call<{ record: PlanRecord; run?: Run }>("act", "get", { plan: id }, signal), [id, plansChanged.value]);
  const record = got.value?.record;
  const runId = got.value?.run?.id ?? record?.state.run;
  const followed = useRun(runId, got.value?.run);
  return (
    <>
      <div class="head">
        <a class="btn quiet square" href="#/plans" aria-label="Back to the plans">‹</a>
        <h1 tabIndex={-1}>{record ? summary(record) : "Plan"}</h1>
        <code class="mute">{id}</code>
        {record && <StateBadge word={stateWord({ state: record.state, ...(followed.run ? { run: followed.run.state } : {}), verdict: record.gate.verdict, approvals: fresh(record), approvals_needed: record.gate.approvals, expires_at: record.plan.expires_at })} />}
      </div>
      <Refused why={got.refusal} title="Not read" />
      {!record && got.busy && <Loading what="the plan" />}
      {record && (
        <>
          <Decide record={record} run={followed.run} onDone={got.again} />
          {followed.run && <Progress run={followed.run} said={followed.said} record={record} />}
          <div class="split even">
            <div class="stack">
              <Steps record={record} run={followed.run} />
              <Config record={record} />
            </div>
            <div class="stack">
              <Gate record={record} />
              <Effects record={record} />
              <Undo record={record} />
              <Basis record={record} />
            </div>
          </div>
        </>
      )}
    </>
  );
}

function summary(record: PlanRecord): string {
  const steps = record.plan.steps;
  if (steps.length === 0) return String(record.plan.intent["do"] ?? "plan");
  return steps.length === 1 ? (steps[0]?.what ?? "") : `${steps[0]?.what} and ${steps.length - 1} more`;
}

function fresh(record: PlanRecord): number {
  return record.approvals.filter((one) => Date.parse(one.expires_at) > serverNow() && one.digest === record.plan.digest).length;
}

/** A run as it goes: frames of `act.run` for who may ask for them, else the feed of plans. */
function useRun(id: string | undefined, known: Run | undefined): { run: Run | undefined; said: string } {
  const [frame, set] = useState<{ id: string; run: Run; said: string } | undefined>();
  const follow = id !== undefined && known !== undefined && !OVER.has(known.state.is) && may("agent");
  useEffect(() => {
    if (!follow || !id) return undefined;
    const stop = new AbortController();
    void (async () => {
      try {
        for await (const one of frames("act", "run", { run: id }, stop.signal)) {
          const { run, said } = one as RunFrame;
          set({ id, run, said });
        }
      } catch {
        // The feed goes on telling; a second source that breaks off is no news.
      }
    })();
    return () => stop.abort();
  }, [id, follow]);
  const fed = id ? runs.value.get(id) : undefined;
  const own = frame?.id === id ? frame : undefined;
  const lines = (run: Run | undefined): number => (run ? (run.journal?.length ?? 0) + (OVER.has(run.state.is) ? 1000 : run.state.is === "verifying" ? 500 : 0) : -1);
  const furthest = [known, fed, own?.run].reduce((a, b) => (lines(b) > lines(a) ? b : a));
  return { run: furthest, said: own?.said ?? "" };
}

type Ask = "approve" | "reject" | "apply" | "cancel" | "confirm";

function Decide({ record, run, onDone }: { record: PlanRecord; run: Run | undefined; onDone: () => void }) {
  const [ask, set] = useState<Ask | undefined>();
  const { plan, gate, state } = record;
  const expired = Date.parse(plan.expires_at) < serverNow();
  const approved = fresh(record) >= gate.approvals;
  const open = state.is === "open" && !expired;
  const mine = plan.by === me();
  const canApply = open && (gate.verdict !== "approval" || approved);
  const verdict: Record<string, string> = { automatic: "Policy lets it go as it is.", confirm: "Whoever asked confirms it, naming the digest.", approval: `${plural(gate.approvals, "approval")} by an operator other than ${plan.by} needed; it has ${fresh(record)}.` };
  return (
    <section class="decide" aria-label="Decision">
      <div class="grow">
        <p><strong>{plan.by}</strong> asked <Ago at={plan.made_at} />{plan.reason && <>: <q class="said">{plan.reason}</q></>}</p>
        <p class="small mute">
          {state.is === "open" && !run && (expired ? <>It expired {stamp(plan.expires_at)}: ask for a new one.</> : <>{verdict[gate.verdict]} It can be applied until {clock(plan.expires_at)}.</>)}
          {state.is === "rejected" && <>Rejected by {state.by}{state.reason && `: ${state.reason}`}</>}
          {state.is === "cancelled" && <>Taken back by {state.by}</>}
          {state.is === "applied" && <>Applied by {state.by} {state.at && <Ago at={state.at} />}</>}
          {state.is === "void" && <>Void: what it relied on has changed. {state.changes?.join(" ")}</>}
        </p>
        <p class="small digest"><span class="mute">digest</span> <code>{plan.digest}</code></p>
      </div>
      <div class="acts">
        {open && gate.verdict === "approval" && !approved && may("operator") && !mine && <button type="button" class="btn primary" onClick={() => set("approve")}>Approve …</button>}
        {canApply && may("agent") && <button type="button" class="btn primary" onClick={() => set("apply")}>Apply …</button>}
        {open && may("operator") && <button type="button" class="btn" onClick={() => set("reject")}>Reject …</button>}
        {open && may("agent") && mine && <button type="button" class="btn" onClick={() => set("cancel")}>Take back …</button>}
        {run && run.state.is === "needs-human" && !run.acknowledged && may("operator") && <button type="button" class="btn" onClick={() => set("cancel")}>I have looked …</button>}
        {run && !OVER.has(run.state.is) && run.state.is === "waiting" && may("agent") && <button type="button" class="btn" onClick={() => set("cancel")}>Take back …</button>}
        {run?.dead_man?.state.is === "armed" && may("operator") && <button type="button" class="btn primary" onClick={() => set("confirm")}>Keep it …</button>}
        {open && !may("agent") && <p class="small mute">A viewer decides nothing.</p>}
      </div>
      {ask && <AskDialog ask={ask} record={record} onClose={() => set(undefined)} onDone={() => { set(undefined); onDone(); }} />}
    </section>
  );
}

const WORDS: Record<Ask, { title: string; about: string; button: string; said: string }> = {
  approve: { title: "Approve this plan", about: "You say yes to exactly this digest, once, for as long as policy lets a yes count. Whoever asked applies it then, or you do.", button: "Approve", said: "Approved" },
  reject: { title: "Reject this plan", about: "It cannot be applied afterwards.", button: "Reject", said: "Rejected" },
  apply: { title: "Apply this plan", about: "The steps are carried out now, after everything they rely on was looked at again.", button: "Apply", said: "Applied" },
  cancel: { title: "Take it back", about: "It is not carried out. Of a run whose outcome is not known this says that you have looked.", button: "Take back", said: "Taken back" },
  confirm: { title: "Keep what was done", about: "It is not taken back by itself any more.", button: "Keep it", said: "Kept" },
};

function AskDialog({ ask, record, onClose, onDone }: { ask: Ask; record: PlanRecord; onClose: () => void; onDone: () => void }) {
  const { plan } = record;
  const [reason, setReason] = useState("");
  const [name, setName] = useState("");
  const [refusal, refuse] = useState<Refusal | undefined>();
  const [busy, work] = useState(false);
  const words = WORDS[ask];
  const goes = destroyed(plan);
  const typesName = goes.length > 0 && (ask === "approve" || ask === "apply");
  const send = async (): Promise<void> => {
    work(true);
    refuse(undefined);
    const digest = plan.digest;
    const body: Record<string, unknown> = { plan: plan.id };
    if (ask === "approve" || ask === "apply") body["digest"] = digest;
    if (ask === "reject") body["reason"] = reason;
    if (typesName) body["name"] = name;
    try {
      await call("act", ask, body);
      say(`${words.said}: ${summary(record)}`);
      onDone();
    } catch (error) {
      refuse(asRefusal(error));
      work(false);
    }
  };
  return (
    <Dialog title={words.title} open onClose={onClose}>
      <form onSubmit={(event) => { event.preventDefault(); void send(); }}>
        <p>{words.about}</p>
        <ol class="brief">{plan.steps.slice(0, 12).map((step, at) => <li key={at}>{step.what}</li>)}{plan.steps.length > 12 && <li>and {plan.steps.length - 12} more</li>}</ol>
        {(ask === "approve" || ask === "apply") && <p class="small digest"><span class="mute">digest</span> <code>{plan.digest}</code></p>}
        {plan.risk === "destructive" && <p class="note" data-tone="bad">Something is lost for good.</p>}
        {ask === "reject" && <Field label="Why" name="why" hint="who asked reads it"><input id="why" value={reason} onInput={(event) => setReason(event.currentTarget.value)} aria-describedby="why-hint" /></Field>}
        {typesName && <Field label={`Type what is destroyed: ${goes.join(",")}`} name="typed"><input id="typed" autocomplete="off" value={name} onInput={(event) => setName(event.currentTarget.value)} /></Field>}
        <Refused why={refusal} />
        <div class="acts">
          <button type="button" class="btn" onClick={onClose}>Cancel</button>
          <button type="submit" class={ask === "reject" || goes.length > 0 ? "btn danger" : "btn primary"} disabled={busy || (typesName && !isTyped(name, goes))}>{words.button}</button>
        </div>
      </form>
    </Dialog>
  );
}

const MARKS: Record<string, string> = {
  begun: "the call goes out", sent: "Proxmox took it", refused: "Proxmox refused it", "answer-lost": "the answer was lost", adopted: "its task was found", "not-taken": "it was not taken",
  ended: "the task ended", seen: "what it was to bring was read back", "already-so": "it was so already", failed: "failed", unknown: "what happened cannot be told",
};

function markText(mark: { mark: string; [field: string]: unknown }): string {
  const exit = mark["exit"] as { kind?: string; text?: string } | undefined;
  const more = [mark["upid"], mark["text"], mark["why"], exit?.kind, exit?.text].filter((one) => typeof one === "string" && one !== "");
  return `${MARKS[mark.mark] ?? mark.mark}${more.length ? `: ${more.join(" ")}` : ""}`;
}

/** How a step stands, by its last line in the journal. */
export function stepState(run: Run | undefined, at: number): string | undefined {
  const last = run?.journal?.filter((line) => line.step === at && line.leg === "forward").at(-1)?.mark.mark;
  if (!last) return undefined;
  if (last === "seen" || last === "already-so") return "done";
  if (last === "failed" || last === "refused") return "failed";
  if (last === "unknown") return "needs-human";
  return "running";
}

function Progress({ run, said, record }: { run: Run; said: string; record: PlanRecord }) {
  const total = record.plan.steps.length;
  const done = record.plan.steps.filter((_, at) => stepState(run, at) === "done").length;
  const over = OVER.has(run.state.is);
  const journal = run.journal ?? [];
  return (
    <Panel title="Run" side={<><Badge tone={toneOf(run.state.is)}>{run.state.is}</Badge> <code class="mute small">{run.id}</code></>}>
      <div class="progress" role="progressbar" aria-label="Steps done" aria-valuemin={0} aria-valuemax={total} aria-valuenow={done}>
        <svg viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true"><rect class="track" width="100" height="4" /><rect class="fill" data-tone={toneOf(run.state.is)} width={total ? (done / total) * 100 : 0} height="4" /></svg>
      </div>
      <p aria-live="polite">
        {done} of {plural(total, "step")} read back{said && !over && <> · {said}</>}
        {run.state.is === "done" && <> · the scanner has seen it at <a href={`#/overview?at=r${run.state.revision}`}>revision {run.state.revision}</a></>}
        {run.state.is === "verifying" && <> · waiting for the scanner to see it</>}
        {run.state.is === "waiting" && <> · {run.state.reason}</>}
        {(run.state.text) && <> · {run.state.text}</>}
        {run.state.is === "cancelled" && <> · taken back by {run.state.by}</>}
      </p>
      {run.unseen?.length ? <ul class="small">{run.unseen.map((fact, at) => <li key={at}>not seen yet: {sentence(fact, nameOf)}</li>)}</ul> : null}
      {run.dead_man && <p class="note" data-tone="warn">{run.dead_man.state.is === "armed" ? <>It is taken back <Ago at={run.dead_man.due} fine /> unless somebody keeps it.</> : <>Undo unless confirmed: {run.dead_man.state.is}{run.dead_man.state.text && `: ${run.dead_man.state.text}`}</>}</p>}
      <details open={!over}>
        <summary>Journal <span class="mute small">{plural(journal.length, "line")}, applied by {run.by} {stamp(run.at)}</span></summary>
        <ol class="plain journal">
          {journal.map((line, at) => <li key={at}><time class="mono small mute">{clock(line.at)}</time> <span class="small">step {line.step + 1}{line.leg === "back" && " back"}</span> <span class="small" data-mark={line.mark.mark}>{markText(line.mark)}</span></li>)}
        </ol>
      </details>
    </Panel>
  );
}

function Facts({ title, facts }: { title: string; facts: FactOf[] }) {
  if (facts.length === 0) return null;
  return <details><summary class="small">{title} <span class="mute">{facts.length}</span></summary><ul class="small">{facts.map((fact, at) => <li key={at}>{sentence(fact, nameOf)}</li>)}</ul></details>;
}

function Steps({ record, run }: { record: PlanRecord; run: Run | undefined }) {
  const one = (step: Step, at: number): ComponentChildren => {
    const state = stepState(run, at);
    return (
      <li key={at} data-state={state}>
        <div class="row"><strong>{step.what}</strong>{state && <Badge tone={toneOf(state)}>{state}</Badge>}<span class="right small mute">{step.node}</span></div>
        <p class="call mono small"><span class="method">{step.call.method}</span> {step.call.path}</p>
        {Object.entries(step.call.params ?? {}).length > 0 && <p class="mono small mute">{Object.entries(step.call.params ?? {}).map(([name, value]) => `${name}=${value}`).join(" ")}</p>}
        <Facts title="must hold right before" facts={step.before} />
        <Facts title="holds afterwards" facts={step.after} />
        <p class="small mute">{step.compensation ? <>taken back by: {step.compensation.what}</> : "what it did stays when a later step fails"}{step.repeat === "harmful" && " · never sent twice"}</p>
      </li>
    );
  };
  return (
    <Panel title="Steps" side={<span class="small mute">{plural(record.plan.steps.length, "call")} of Proxmox's API</span>}>
      {record.plan.steps.length === 0 ? <Empty title="It has no steps." /> : <ol class="steps">{record.plan.steps.map(one)}</ol>}
    </Panel>
  );
}

function Config({ record }: { record: PlanRecord }) {
  const changes = record.plan.config_changes;
  return (
    <Panel title="Configuration">
      {changes.length === 0 ? <p class="mute">No line of any configuration changes.</p> : (
        <Scroll label="changed configuration">
          <table class="data diff">
            <thead><tr><th scope="col">Line</th><th scope="col">Before</th><th scope="col">After</th></tr></thead>
            <tbody>{changes.map((one) => <tr key={`${one.guest} ${one.field}`}><th scope="row"><code>{one.field}</code><span class="sub">{nameOf(one.guest)}</span></th><td class="mono small"><del>{one.before ?? "not there"}</del></td><td class="mono small"><ins>{one.after ?? "not there"}</ins></td></tr>)}</tbody>
          </table>
        </Scroll>
      )}
    </Panel>
  );
}

function Gate({ record }: { record: PlanRecord }) {
  const { gate, plan, approvals, rehearsal } = record;
  return (
    <Panel title="What policy says" side={<><Badge tone={toneOf(plan.risk)}>{plan.risk}</Badge> <Badge tone={toneOf(gate.verdict)}>{gate.verdict}</Badge></>}>
      <ul class="tightlist">{gate.reasons.map((one) => <li key={one}>{one}</li>)}</ul>
      {gate.not_before && <p>It is not started before {stamp(gate.not_before)}.</p>}
      {approvals.map((one) => <p key={`${one.by} ${one.at}`} class="small"><Badge tone={Date.parse(one.expires_at) > serverNow() ? "ok" : "mute"}>{Date.parse(one.expires_at) > serverNow() ? "approved" : "approval expired"}</Badge> by {one.by} {stamp(one.at)}</p>)}
      {rehearsal && (
        <details open={!rehearsal.as_expected}><summary>Rehearsal <Badge tone={rehearsal.as_expected ? "ok" : "bad"}>{rehearsal.as_expected ? "as expected" : "differs"}</Badge></summary>
          <ul class="small">{[...rehearsal.differences, ...rehearsal.changes].map((one) => <li key={one}>{one}</li>)}</ul>
        </details>
      )}
      {gate.rehearse && !rehearsal && <p class="small mute">It has to be rehearsed first.</p>}
    </Panel>
  );
}

function Effects({ record }: { record: PlanRecord }) {
  const { effects, impacts } = record.plan;
  return (
    <Panel title="Side effects">
      {effects.length === 0 && impacts.length === 0 && <p class="mute">None are foreseen.</p>}
      <ul class="tightlist">{effects.map((one) => <li key={one}>{one}</li>)}</ul>
      {impacts.length > 0 && <><h3>Touched besides</h3><ul class="plain lines">{impacts.map((one) => <li key={`${one.name} ${one.cause}`}>{one.guest ? <a href={recordHref(one.guest)}>{one.name}</a> : one.name} <Badge>{one.cause}</Badge> <span class="small mute">{one.how}</span></li>)}</ul></>}
    </Panel>
  );
}

function Undo({ record }: { record: PlanRecord }) {
  const { undo, on_failure: onFailure, undo_unless_confirmed_minutes: minutes } = record.plan;
  return (
    <Panel title="How it is taken back">
      <p>{undo.cost}</p>
      <p class="small mute">{undo.intents.length === 0 ? "Nothing can or need be done." : `By: ${undo.intents.map((one) => inline(one["do"])).join(", ")}.`} {undo.complete ? "That brings everything back." : "That does not bring everything back."} When a step fails, {onFailure === "compensate" ? "what was done is taken back" : "what was done stays"}.</p>
      {minutes !== undefined && <p class="small">It is taken back {plural(minutes, "minute")} after it is done, unless somebody keeps it.</p>}
    </Panel>
  );
}

function Basis({ record }: { record: PlanRecord }) {
  const { plan } = record;
  return (
    <Panel title="What it relies on" side={<span class="small mute">made on revision {plan.revision}</span>}>
      <ul class="plain inline-list small">{Object.entries(plan.reads).map(([key, revision]) => <li key={key}><a href={`${recordHref(key).replace("#/guest/", "#/record/")}?at=r${revision}`} title={`${key} at revision ${revision}`}>{nameOf(key)} <span class="mute">r{revision}</span></a></li>)}</ul>
      <Facts title="must hold before the first step, seen live" facts={plan.requires} />
      <Facts title="what the scanner must see when all is done" facts={plan.expects} />
    </Panel>
  );
}
