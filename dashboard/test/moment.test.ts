// A moment as people write it: a revision or a time, and what is neither is told.
import { expect, test } from "vitest";
import { Refusal } from "../src/api/client.ts";
import { parseMoment } from "../src/lib/moment.ts";

test("revisions and times are read", () => {
  expect(parseMoment(null)).toBeUndefined();
  expect(parseMoment("  ")).toBeUndefined();
  expect(parseMoment(" r47 ")).toEqual({ revision: 47 });
  expect(parseMoment("47")).toEqual({ revision: 47 });
  expect(parseMoment("2026-01-31T14:00:00Z")).toEqual({ time: "2026-01-31T14:00:00.000Z" });
  expect(parseMoment("2026-01-31")).toEqual({ time: "2026-01-31T00:00:00.000Z" });
});

test("what is neither is a refusal, also what a browser would read a time from", () => {
  for (const text of ["yesterday", "r", "r47x", "-1", "last 5", "2026-13-45", "2026-01-31T99:00"]) {
    const told = parseMoment(text);
    expect(told, text).toBeInstanceOf(Refusal);
    expect((told as Refusal).message).toContain(text);
  }
});
