// The end of the audit log, whatever its length, and what is told when it is not read to its end.
import { expect, test } from "vitest";
import source from "../../crates/nhi-model/src/audit.rs?raw";
import { KINDS, newest, type List } from "../src/lib/audit.ts";

/** A log of so many entries, as `audit.list` tells it: oldest first, without those that cannot be read. */
function log(length: number, unreadable: (sequence: number) => boolean = () => false): List & { asked: number } {
  const list = async ({ after, limit }: { after: number; limit: number }) => {
    list.asked += 1;
    const last = Math.min(length, after + limit);
    const sequences = Array.from({ length: Math.max(0, last - after) }, (_, at) => after + 1 + at);
    const entries = sequences.filter((one) => !unreadable(one)).map((sequence) => ({ sequence, entry: {} as never }));
    return last < length ? { entries, more: true, next: last } : { entries, more: false };
  };
  list.asked = 0;
  return list;
}

const sequences = (rows: { sequence: number }[]): number[] => rows.map((row) => row.sequence);

test("the newest of a log of any length, in few questions", async () => {
  for (const length of [0, 1, 99, 100, 101, 200, 399, 400, 401, 12_345, 1_000_000]) {
    const list = log(length);
    const told = await newest(list, {}, undefined);
    const want = Array.from({ length: Math.min(100, length) }, (_, at) => length - at);
    expect(sequences(told.rows), `${length}`).toEqual(want);
    expect(told.older).toBe(length > 100);
    expect(told.upTo).toBe(length > 100 ? length - 100 : undefined);
    expect(list.asked, `${length}`).toBeLessThan(40);
  }
  expect(sequences((await newest(log(1000), {}, 250)).rows).at(0)).toBe(250);
});

test("entries that cannot be read are no end of the log", async () => {
  const told = await newest(log(5000, (sequence) => sequence % 7 === 3 || (sequence > 4000 && sequence < 4900)), {}, undefined);
  expect(told.rows[0]?.sequence).toBe(5000);
  expect(told.older).toBe(true);
  // A page of nothing else is gone past as well.
  const bare = await newest(log(5000, (sequence) => sequence > 300 && sequence < 4900), {}, 4800);
  expect(bare).toMatchObject({ rows: [], older: true, upTo: 4700 });
});

test("a search that did not come to the end says how far it came", async () => {
  const many = await newest(log(20_000), { kind: "run.ended" }, undefined);
  expect(many).toMatchObject({ older: true, readTo: 10_000 });
  expect(many.rows[0]?.sequence).toBe(10_000);
  const few = await newest(log(30), { plan: "p-1" }, undefined);
  expect([few.rows.length, few.older, few.readTo]).toEqual([30, false, undefined]);
});

test("every kind of the log can be picked", () => {
  const kinds = [...source.matchAll(/#\[serde\(rename = "([^"]+)"\)\]/g)].map(([, kind]) => kind);
  expect(kinds.length).toBeGreaterThan(20);
  expect([...KINDS].sort()).toEqual(kinds.sort());
});
