// The newest entries of the audit log. It is told oldest first, so its end is looked for; who asks the mesh is a parameter.

import type { AuditListed, AuditRow } from "../api/types.ts";

export const KINDS = [
  "mesh.created", "auth.added", "auth.revoked", "auth.granted", "auth.ungranted", "auth.renewed", "message.dropped", "store.changed", "plan.made", "plan.refused", "plan.approved",
  "plan.rejected", "plan.cancelled", "plan.void", "plan.rehearsed", "run.applied", "run.claimed", "step.begun", "step.sent", "step.ended", "step.read-back", "run.ended",
  "undo.armed", "undo.confirmed", "undo.due", "act.frozen", "act.thawed", "guest.held", "guest.released", "policy.changed", "gpu.locked", "gpu.unlocked",
];

const PAGE = 100;
const PAGES_MAX = 100;

export type Filter = { kind?: string; plan?: string };
export type List = (asked: { after: number; limit: number } & Filter) => Promise<AuditListed>;
export type Newest = {
  /** Newest first. */
  rows: AuditRow[];
  /** Whether older ones fit. */
  older: boolean;
  /** Present when those can be asked for: up to which sequence. */
  upTo?: number;
  /** Present when the log was not read to its end: the last sequence that was. */
  readTo?: number;
};

/** The newest that fit, or the newest up to a sequence. */
export async function newest(list: List, filter: Filter, upTo: number | undefined): Promise<Newest> {
  if (filter.kind || filter.plan) return search(list, filter);
  const last = upTo ?? (await end(list));
  // The end is found to a page: the page before it makes this one full.
  const start = Math.max(0, last - (upTo === undefined ? 2 : 1) * PAGE);
  const rows = (await between(list, start, last)).slice(-PAGE);
  const before = (rows[0]?.sequence ?? start + 1) - 1;
  return { rows: rows.reverse(), older: before > 0, ...(before > 0 ? { upTo: before } : {}) };
}

/** Few of many: read through, as far as can be waited for. */
async function search(list: List, filter: Filter): Promise<Newest> {
  let after = 0;
  let rows: AuditRow[] = [];
  let found = 0;
  for (let pages = 0; pages < PAGES_MAX; pages += 1) {
    const page = await list({ after, limit: PAGE, ...filter });
    found += page.entries.length;
    rows = [...rows, ...page.entries].slice(-PAGE);
    if (!page.more || page.next === undefined) return { rows: rows.reverse(), older: found > rows.length };
    after = page.next;
  }
  return { rows: rows.reverse(), older: found > rows.length, readTo: after };
}

/** A sequence at most a page after the last entry, found by halving, in a dozen small questions however long the log is. */
async function end(list: List): Promise<number> {
  // An entry that cannot be read is left out of an answer, which then is empty though more follows.
  const goesOn = async (after: number): Promise<boolean> => {
    const page = await list({ after, limit: 1 });
    return page.entries.length > 0 || page.more;
  };
  let low = 0;
  let high = PAGE;
  while (await goesOn(high)) {
    low = high;
    high *= 4;
  }
  while (high - low > PAGE) {
    const middle = Math.floor((low + high) / 2);
    if (await goesOn(middle)) low = middle;
    else high = middle;
  }
  return high;
}

/** All after one sequence up to another, oldest first. */
async function between(list: List, start: number, last: number): Promise<AuditRow[]> {
  const rows: AuditRow[] = [];
  let after = start;
  for (;;) {
    const page = await list({ after, limit: PAGE });
    rows.push(...page.entries.filter((row) => row.sequence <= last));
    if (!page.more || page.next === undefined || page.next <= after || page.next >= last) return rows;
    after = page.next;
  }
}
