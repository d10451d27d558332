// A moment as people write it and as addresses hold it: a revision (`r47`, `47`) or a time.

import { Refusal } from "../api/client.ts";
import type { At } from "../api/types.ts";

/** Nothing where nothing is written, a refusal where it names no moment. */
export function parseMoment(text: string | null): At | Refusal | undefined {
  const plain = text?.trim();
  if (!plain) return undefined;
  if (/^r?\d+$/.test(plain)) return { revision: Number(plain.replace("r", "")) };
  // Browsers read a time out of nearly anything that has a number in it: only what begins with a date is one.
  const time = /^\d{4}-\d\d-\d\d/.test(plain) ? Date.parse(plain) : Number.NaN;
  if (!Number.isNaN(time)) return { time: new Date(time).toISOString() };
  return new Refusal("no-moment", `“${plain.slice(0, 80)}” names no moment`, "write a revision (r47) or a time (2026-01-31T14:00)");
}
