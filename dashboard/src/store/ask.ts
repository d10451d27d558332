// An answer of the mesh for a component: asked when what it depends on changes, kept while it is asked again, dropped when
// the component goes. An older answer never replaces a newer one.

import { useEffect, useRef, useState } from "preact/hooks";
import { asRefusal, type Refusal } from "../api/client.ts";

export type Asked<T> = { value: T | undefined; refusal: Refusal | undefined; busy: boolean; again: () => void };

export function useAsk<T>(ask: (signal: AbortSignal) => Promise<T>, on: unknown[]): Asked<T> {
  const [state, set] = useState<{ value: T | undefined; refusal: Refusal | undefined; busy: boolean }>({
    value: undefined,
    refusal: undefined,
    busy: true,
  });
  const [turn, next] = useState(0);
  const latest = useRef(ask);
  latest.current = ask;
  useEffect(() => {
    const stop = new AbortController();
    set((old) => ({ ...old, busy: true }));
    latest.current(stop.signal).then(
      (value) => !stop.signal.aborted && set({ value, refusal: undefined, busy: false }),
      (error) => !stop.signal.aborted && set((old) => ({ ...old, refusal: asRefusal(error), busy: false })),
    );
    return () => stop.abort();
  }, [...on, turn]);
  return { ...state, again: () => next((n) => n + 1) };
}
