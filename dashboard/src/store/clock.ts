// The time of the gateway, by the second and by the ten seconds, for what shows ages. Nothing ticks in a hidden tab.

import { signal } from "@preact/signals";
import { serverNow } from "../api/client.ts";

export const second = signal(serverNow());
/** For what need not be drawn anew each second. */
export const tick = signal(serverNow());

let timer: ReturnType<typeof setInterval> | undefined;

export function startClock(): void {
  const beat = (): void => {
    const now = serverNow();
    second.value = now;
    if (Math.abs(now - tick.peek()) >= 10_000) tick.value = now;
  };
  const set = (): void => {
    clearInterval(timer);
    if (document.hidden) return;
    beat();
    timer = setInterval(beat, 1000);
  };
  document.addEventListener("visibilitychange", set);
  set();
}
