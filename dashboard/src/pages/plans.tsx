// Plans, newest first: what was asked, by whom, how far it is; and the freeze, which stops everything.

import { useState } from "preact/hooks";
import { asRefusal, call, serverNow, type Refusal } from "../api/client.ts";
import type { ActListed, PlanRow } from "../api/types.ts";
import { stamp } from "../lib/format.ts";
import { named, recordHref } from "../lib/key.ts";
import { useAsk } from "../store/ask.ts";
import { lab, plansChanged } from "../store/lab.ts";
import { route, setQuery } from "../store/route.ts";
import { may } from "../store/session.ts";
import { Ago, Badge, Dialog, Empty, Field, Loading, Panel, Refused, Tabs, toneOf } from "../ui/base.tsx";
import { say } from "../ui/toast.tsx";

export function Plans() {
  const open = route.value.query.get("show") !== "all";
  const listed = useAsk((signal) => call<ActListed>("act", "list", { open, limit: 100 }, signal), [plansChanged.value, open]);
  return (
    <>
      <div class="head">
        <h1 tabIndex={-1}>Plans</h1>
        <Tabs label="Which" options={[["open", "Open"], ["all", "All"]]} value={open ? "open" : "all"} onPick={(value) => setQuery({ show: value === "all" ? "all" : null })} />
        {may("operator") && listed.value && <FreezeButton frozen={listed.value.frozen} onDone={listed.again} />}
      </div>
      {listed.value?.frozen && (
        <div class="note" data-tone="bad"><p><strong>Frozen</strong> by {listed.value.frozen.by} since {stamp(listed.value.frozen.since)}{listed.value.frozen.reason && `: ${listed.value.frozen.reason}`}. What has not started waits.</p></div>
      )}
      <Refused why={listed.refusal} title="Not read" />
      <Panel title={open ? "Waiting or under way" : "All plans"} flush side={listed.value?.more ? <span class="small mute">the newest 100</span> : undefined}>
        {!listed.value && listed.busy && <Loading what="plans" />}
        {listed.value?.plans.length === 0 && (
          <Empty title={open ? "Nothing waits and nothing is under way." : "No plan was made yet."}>
            A plan begins with an intent: on a guest's page, with <code>nhi guest …</code>, or by an agent. Nothing is changed before somebody applies one.
          </Empty>
        )}
        {listed.value && listed.value.plans.length > 0 && (
          <table class="data plans">
            <thead><tr><th scope="col">Plan</th><th scope="col">State</th><th scope="col" class="wide">Risk</th><th scope="col" class="wide">By</th><th scope="col" class="wide">Made</th></tr></thead>
            <tbody>{listed.value.plans.map((row) => <Row key={row.plan} row={row} />)}</tbody>
          </table>
        )}
      </Panel>
      {listed.value?.holds?.length ? (
        <Panel title="Guests that are held">
          <ul class="plain lines">
            {listed.value.holds.map(({ guest, hold }) => <li key={guest}><a href={recordHref(guest)}>{named(guest, lab.value?.records.get(guest)?.record)}</a> is held by {hold.by} until {stamp(hold.until)}{hold.reason && `: ${hold.reason}`}</li>)}
          </ul>
        </Panel>
      ) : null}
    </>
  );
}

/** The word for how far a plan is. */
export function stateWord(row: Pick<PlanRow, "state" | "run" | "verdict" | "approvals" | "approvals_needed" | "expires_at">): string {
  if (row.run) return row.run.is;
  if (row.state.is !== "open") return row.state.is;
  if (Date.parse(row.expires_at) < serverNow()) return "expired";
  if (row.verdict === "approval") return row.approvals >= row.approvals_needed ? "approved" : "needs approval";
  return row.verdict === "confirm" ? "needs confirmation" : "ready";
}

const TONES: Record<string, "ok" | "warn" | "info" | "mute"> = { approved: "ok", "needs approval": "warn", "needs confirmation": "info", ready: "ok", expired: "mute" };

export function StateBadge({ word }: { word: string }) {
  return <Badge tone={TONES[word] ?? toneOf(word)}>{word}</Badge>;
}

function Row({ row }: { row: PlanRow }) {
  return (
    <tr data-plan={row.plan}>
      <th scope="row"><a href={`#/plan/${row.plan}`}>{row.summary}</a><span class="sub"><code>{row.plan}</code><span class="narrow"> · {row.by} · <Ago at={row.made_at} /></span></span></th>
      <td><StateBadge word={stateWord(row)} />{row.needs_human && <span class="sub warntext">a person has to look</span>}</td>
      <td class="wide"><Badge tone={toneOf(row.risk)}>{row.risk}</Badge></td>
      <td class="wide">{row.by}</td>
      <td class="wide"><Ago at={row.made_at} /></td>
    </tr>
  );
}

function FreezeButton({ frozen, onDone }: { frozen: ActListed["frozen"]; onDone: () => void }) {
  const [open, set] = useState(false);
  const [reason, setReason] = useState("");
  const [refusal, refuse] = useState<Refusal | undefined>();
  const act = async (): Promise<void> => {
    try {
      await call("act", frozen ? "thaw" : "freeze", frozen ? {} : { reason });
      say(frozen ? "Thawed: what waited is looked at anew" : "Frozen: nothing more starts");
      set(false);
      onDone();
    } catch (error) {
      refuse(asRefusal(error));
    }
  };
  return (
    <div class="acts right">
      <button type="button" class={frozen ? "btn primary" : "btn danger"} onClick={() => set(true)}>{frozen ? "Thaw …" : "Freeze …"}</button>
      <Dialog title={frozen ? "Thaw" : "Freeze everything"} open={open} onClose={() => set(false)}>
        <form onSubmit={(event) => { event.preventDefault(); void act(); }}>
          <p>{frozen ? "What waited is looked at anew and goes on." : "Nothing that has not started will start. A run in the middle of a step ends that step and waits."}</p>
          {!frozen && <Field label="Reason" name="freeze-reason"><input id="freeze-reason" value={reason} onInput={(event) => setReason(event.currentTarget.value)} /></Field>}
          <Refused why={refusal} />
          <div class="acts"><button type="button" class="btn" onClick={() => set(false)}>Cancel</button><button type="submit" class={frozen ? "btn primary" : "btn danger"}>{frozen ? "Thaw" : "Freeze"}</button></div>
        </form>
      </Dialog>
    </div>
  );
}
