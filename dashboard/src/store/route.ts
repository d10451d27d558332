// Where the reader is: `#/page/argument?query`. The moment looked at is part of the address, so that it can be shared.

import { computed, signal } from "@preact/signals";
import { Refusal } from "../api/client.ts";
import type { At } from "../api/types.ts";
import { parseMoment } from "../lib/moment.ts";

export type Route = { page: string; argument: string; query: URLSearchParams };

function parse(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const [page = "", ...rest] = path.split("/");
  let argument = rest.join("/");
  try {
    argument = decodeURIComponent(argument);
  } catch {
    // Written by hand; taken as it stands.
  }
  return { page: page || "overview", argument, query: new URLSearchParams(query) };
}

export const route = signal<Route>(parse(location.hash));
window.addEventListener("hashchange", () => {
  route.value = parse(location.hash);
});

export function go(href: string): void {
  location.hash = href;
}

/** Changes the query alone; `null` takes a word away. It makes no step for the back button. */
export function setQuery(words: Record<string, string | null>): void {
  const { page, argument, query } = route.peek();
  const next = new URLSearchParams(query);
  for (const [name, value] of Object.entries(words)) {
    if (value === null) next.delete(name);
    else next.set(name, value);
  }
  const text = next.toString();
  const hash = `#/${page}${argument ? `/${encodeURIComponent(argument)}` : ""}${text ? `?${text}` : ""}`;
  history.replaceState(null, "", hash);
  route.value = parse(hash);
}

const told = computed(() => parseMoment(route.value.query.get("at")));

/** The moment looked at; `undefined` is now. */
export const at = computed<At | undefined>(() => (told.value instanceof Refusal ? undefined : told.value));

/** Why the address names no moment, where it tries to: what is shown is now. */
export const atFault = computed(() => (told.value instanceof Refusal ? told.value : undefined));

/** A link that stays at the moment looked at. */
export function keep(href: string): string {
  const text = route.value.query.get("at");
  return text ? `${href}${href.includes("?") ? "&" : "?"}at=${encodeURIComponent(text)}` : href;
}
