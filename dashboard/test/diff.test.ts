// What changed, by field and in words.
import { expect, test } from "vitest";
import { between, fields, story, words } from "../src/lib/diff.ts";
import { sentence } from "../src/lib/facts.ts";

test("only what differs is told, lists as a whole", () => {
  const before = { status: "running", tags: ["a", "b"], nics: { net0: { bridge: "vmbr0" } }, memory_bytes: 1073741824 };
  const after = { status: "stopped", tags: ["b"], nics: { net0: { bridge: "vmbr1" } }, memory_bytes: 2147483648 };
  expect(fields(before, after)).toEqual({
    "/memory_bytes": { before: 1073741824, after: 2147483648 },
    "/nics/net0/bridge": { before: "vmbr0", after: "vmbr1" },
    "/status": { before: "running", after: "stopped" },
    "/tags": { before: ["a", "b"], after: ["b"] },
  });
  expect(fields({ "a/b~c": 1 }, {})).toEqual({ "/a~1b~0c": { before: 1, after: null } });
  expect(words(between(before, { ...before, status: "stopped" }))).toBe("status running → stopped");
  expect(words(between(before, { ...before, memory_bytes: 2147483648 }))).toBe("memory 1 GiB → 2 GiB");
});

test("coming, going and standing still", () => {
  expect(words(between(undefined, { a: 1 }))).toBe("appeared");
  expect(words(between({ a: 1 }, undefined))).toBe("went away");
  expect(between({ a: 1 }, { a: 1 })).toBeUndefined();
  expect(words(between({ config_digest: "x", status: "a" }, { config_digest: "y", status: "b" }))).toBe("status a → b");
});

test("a fact nobody knows here is told as it is", () => {
  const name = (key: string) => key;
  expect(sentence({ is: "status", guest: "vm.home.105", status: "stopped" }, name)).toBe("vm.home.105 is stopped");
  expect(sentence({ is: "new-kind", guest: "vm.home.105" }, name)).toBe('{"is":"new-kind","guest":"vm.home.105"}');
});

test("that a record went stale, and is seen again, is told", () => {
  const fresh = { revision: 1, at: "", record: { status: "running" } };
  const stale = { ...fresh, revision: 2, stale: { reason: "node pve3 is offline", since: "" } };
  expect(story(fresh, stale)).toBe("went stale: node pve3 is offline");
  expect(story(stale, fresh)).toBe("came back into sight");
  expect(story(stale, { ...fresh, record: { status: "stopped" } })).toBe("status running → stopped; came back into sight");
  expect(story(undefined, fresh)).toBe("appeared");
  expect(story(stale, undefined)).toBe("went away");
});
