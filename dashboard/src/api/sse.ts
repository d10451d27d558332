// Server-sent events from bytes: https://html.spec.whatwg.org/multipage/server-sent-events.html, without the connection.
// Why not EventSource? It cannot POST, hides the status of a refusal, and says nothing of comments, by which we know
// that the other side lives.

export type SseEvent = { event: string; data: string; id: string | undefined };

export class SseParser {
  #rest = "";
  #data: string[] = [];
  #event = "";
  #id: string | undefined;
  #fresh = true;

  /** Takes the next piece of text and gives the events that are whole now. */
  push(text: string): SseEvent[] {
    let all = this.#rest + text;
    if (this.#fresh && all.length > 0) {
      this.#fresh = false;
      if (all.startsWith("\uFEFF")) all = all.slice(1);
    }
    const events: SseEvent[] = [];
    let start = 0;
    for (let at = 0; at < all.length; at += 1) {
      const char = all[at];
      if (char !== "\n" && char !== "\r") continue;
      // A \r at the very end may be half of \r\n: wait for the rest.
      if (char === "\r" && at + 1 === all.length) break;
      this.#line(all.slice(start, at), events);
      if (char === "\r" && all[at + 1] === "\n") at += 1;
      start = at + 1;
    }
    this.#rest = all.slice(start);
    return events;
  }

  #line(line: string, events: SseEvent[]): void {
    if (line === "") {
      if (this.#data.length > 0) {
        events.push({ event: this.#event || "message", data: this.#data.join("\n"), id: this.#id });
      }
      this.#data = [];
      this.#event = "";
      this.#id = undefined;
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#event = value;
    else if (field === "id" && !value.includes("\0")) this.#id = value;
  }
}

/** The events of a response as they come. `alive` is called for each piece, comments included. */
export async function* events(response: Response, alive?: () => void): AsyncGenerator<SseEvent> {
  if (!response.body) return;
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  const parser = new SseParser();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      alive?.();
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}
