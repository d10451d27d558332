// What just happened because of the reader, said once, also aloud.

import { signal } from "@preact/signals";

const said = signal<{ text: string; n: number } | undefined>(undefined);
let timer: ReturnType<typeof setTimeout> | undefined;

export function say(text: string): void {
  said.value = { text, n: (said.peek()?.n ?? 0) + 1 };
  clearTimeout(timer);
  timer = setTimeout(() => (said.value = undefined), 7000);
}

export function Toast() {
  const now = said.value;
  return (
    <div class="toast" role="status" aria-live="polite">
      {now && <p key={now.n}>{now.text}</p>}
    </div>
  );
}
