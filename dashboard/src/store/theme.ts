// Dark or light: what the system says, unless the reader said otherwise.

import { effect, signal } from "@preact/signals";

export type Theme = "system" | "light" | "dark";
const NAME = "nhi-theme";

function remembered(): Theme {
  try {
    const text = localStorage.getItem(NAME);
    return text === "light" || text === "dark" ? text : "system";
  } catch {
    return "system";
  }
}

export const theme = signal<Theme>(remembered());

effect(() => {
  const root = document.documentElement;
  if (theme.value === "system") delete root.dataset["theme"];
  else root.dataset["theme"] = theme.value;
  try {
    if (theme.value === "system") localStorage.removeItem(NAME);
    else localStorage.setItem(NAME, theme.value);
  } catch {
    // A browser that keeps nothing: it holds for this page.
  }
});
