// What a call that fails is told as: a connection that breaks is no fault of the page.
import { afterEach, expect, test, vi } from "vitest";
import { asRefusal, call, frames } from "../src/api/client.ts";

afterEach(() => vi.unstubAllGlobals());

/** A gateway that sends this and then breaks off, or ends as it should not. */
function answers(text: string, type: string, breaks: boolean): void {
  const body = new ReadableStream({
    pull(to) {
      if (text) to.enqueue(new TextEncoder().encode(text));
      else if (breaks) to.error(new TypeError("network error"));
      else to.close();
      text = "";
    },
  });
  vi.stubGlobal("fetch", async () => new Response(body, { headers: { "content-type": type } }));
}

async function all(signal = new AbortController().signal): Promise<{ got: unknown[]; why: unknown }> {
  const got: unknown[] = [];
  try {
    for await (const frame of frames("ai", "chat", {}, signal)) got.push(frame);
  } catch (why) {
    return { got, why };
  }
  return { got, why: undefined };
}

const STREAM = "text/event-stream";

test("a stream that breaks, or ends without its end, was cut", async () => {
  for (const breaks of [true, false]) {
    answers('data: {"a":1}\n\ndata: {"a"', STREAM, breaks);
    const { got, why } = await all();
    expect(got).toEqual([{ a: 1 }]);
    expect(asRefusal(why)).toMatchObject({ code: "cut", hint: "ask again" });
  }
  answers('data: {"a":1}\n\nevent: end\ndata: {"Nhi-End":"done"}\n\n', STREAM, true);
  expect(await all()).toEqual({ got: [{ a: 1 }], why: undefined });
});

test("an answer that breaks was cut, whole or in frames", async () => {
  answers('{"a":', "application/json", true);
  expect(asRefusal(await call("state", "get").catch((error) => error)).code).toBe("cut");
  answers('{"a":', "application/json", true);
  expect(asRefusal((await all()).why).code).toBe("cut");
});

test("who stops it is not told of a cut, and the mesh's own refusal stays", async () => {
  const stop = new AbortController();
  answers('data: {"a":1}\n\n', STREAM, true);
  stop.abort();
  expect(asRefusal((await all(stop.signal)).why).code).not.toBe("cut");
  answers('event: end\ndata: {"Nhi-End":"failed","error":{"code":"busy","message":"nobody is free"}}\n\n', STREAM, false);
  expect(asRefusal((await all()).why)).toMatchObject({ code: "busy", message: "nobody is free" });
});
