// Events from bytes that arrive in any pieces.
import { expect, test } from "vitest";
import { events, SseParser } from "../src/api/sse.ts";

const WHOLE = 'event: state\nid: 7\ndata: {"a":\ndata: 1}\n\n: alive\n\ndata:x\r\n\r\nevent: end\rdata: {}\r\rdata: never ended';
const WANT = [
  { event: "state", id: "7", data: '{"a":\n1}' },
  { event: "message", id: undefined, data: "x" },
  { event: "end", id: undefined, data: "{}" },
];

test("events are the same however the text is cut", () => {
  for (let size = 1; size <= WHOLE.length; size += 1) {
    const parser = new SseParser();
    const got = [];
    for (let at = 0; at < WHOLE.length; at += size) got.push(...parser.push(WHOLE.slice(at, at + size)));
    expect(got, `pieces of ${size}`).toEqual(WANT);
  }
});

test("comments, unknown fields and a mark at the start are no data", () => {
  const parser = new SseParser();
  expect(parser.push("\uFEFFdata: a\nretry: 5\nwhat\n\n")).toEqual([{ event: "message", id: undefined, data: "a" }]);
  expect(parser.push(":only\n\nevent: lonely\n\n")).toEqual([]);
});

test("a letter of several bytes may be cut in the middle", async () => {
  const all = new TextEncoder().encode("data: ü€😀\n\n");
  const body = new ReadableStream({
    start(to) {
      for (const byte of all) to.enqueue(new Uint8Array([byte]));
      to.close();
    },
  });
  const got = [];
  let alive = 0;
  for await (const event of events(new Response(body), () => (alive += 1))) got.push(event.data);
  expect(got).toEqual(["ü€😀"]);
  expect(alive).toBe(all.length);
});
