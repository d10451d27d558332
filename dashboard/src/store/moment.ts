// The lab at the moment looked at: now, followed live, or at some time before, read once. What was not kept is unknown.

import { effect, signal } from "@preact/signals";
import { asRefusal, type Refusal } from "../api/client.ts";
import { lab, read, type View } from "./lab.ts";
import { at } from "./route.ts";
import { session } from "./session.ts";

export type Past = { is: "reading" } | { is: "read"; view: View } | { is: "refused"; why: Refusal };

/** The past that is looked at; absent while it is now. */
export const past = signal<Past | undefined>(undefined);

let reading: AbortController | undefined;
let asked = "";

effect(() => {
  const moment = at.value;
  const text = moment && session.value.is === "in" ? JSON.stringify(moment) : "";
  if (text === asked) return;
  asked = text;
  reading?.abort();
  if (!text) {
    past.value = undefined;
    return;
  }
  const stop = new AbortController();
  reading = stop;
  // While the slider moves the last moment stays in sight.
  if (past.peek()?.is !== "read") past.value = { is: "reading" };
  const timer = setTimeout(() => {
    read(moment, stop.signal).then(
      (view) => !stop.signal.aborted && (past.value = { is: "read", view }),
      (error) => !stop.signal.aborted && (past.value = { is: "refused", why: asRefusal(error) }),
    );
  }, 120);
  stop.signal.addEventListener("abort", () => clearTimeout(timer));
});

/** What is shown: the present or the past. `undefined` until it is read. */
export function shown(): View | undefined {
  const before = past.value;
  if (!at.value) return lab.value;
  return before?.is === "read" ? before.view : undefined;
}
