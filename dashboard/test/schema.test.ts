// Forms from schemas: ours, and those somebody else wrote.
import { expect, test } from "vitest";
import { form, missing, preset } from "../src/lib/schema.ts";

const PLAN = {
  type: "object",
  required: ["intent"],
  properties: {
    rehearse: { type: "boolean", default: false },
    reason: { type: ["string", "null"], description: "Why" },
    at: { anyOf: [{ $ref: "#/$defs/At" }, { type: "null" }] },
    intent: { $ref: "#/$defs/Intent", description: "What" },
    select: { type: "array", items: { type: "string" } },
    role: { oneOf: [{ const: "viewer" }, { const: "owner" }] },
  },
  $defs: {
    At: { oneOf: [{ type: "object", properties: { revision: { type: "integer", minimum: 0 } }, required: ["revision"] }] },
    Guest: { type: "string" },
    Intent: {
      oneOf: [
        { type: "object", required: ["do", "guest"], properties: { do: { const: "start" }, guest: { $ref: "#/$defs/Guest" } } },
        { type: "object", required: ["do"], properties: { do: { const: "lab-down" } } },
      ],
    },
  },
};

test("what is required comes first, references are followed, null only means absent", () => {
  const made = form(PLAN);
  if (made.kind !== "group") throw new Error(made.kind);
  const kinds = Object.fromEntries(made.fields.map(([name, field]) => [name, field.kind]));
  expect(made.fields[0]?.[0]).toBe("intent");
  expect(kinds).toEqual({ intent: "variants", rehearse: "flag", reason: "text", at: "variants", select: "list", role: "choice" });
  const intent = made.fields[0]?.[1];
  if (intent?.kind !== "variants") throw new Error("no variants");
  expect(intent.variants.map((one) => one.label)).toEqual(["start", "lab-down"]);
  expect(preset(made)).toEqual({ intent: { do: "start" } });
  expect(missing(intent.variants[0]!.field, { do: "start" })).toEqual(["guest"]);
  expect(missing(made, {})).toEqual(["intent"]);
});

test("alternatives that only require are fields beside each other, not shapes", () => {
  const made = form({ type: "object", properties: { messages: { type: "string" }, input: { type: "string" } }, anyOf: [{ required: ["messages"] }, { required: ["input"] }] });
  expect(made.kind === "group" && made.fields.map(([name]) => name)).toEqual(["messages", "input"]);
});

test("an alternative that allows anything is a shape of its own", () => {
  const made = form({ anyOf: [{}, { type: "string" }, { required: ["a"] }] });
  expect(made.kind === "variants" && made.variants.map((one) => one.field.kind)).toEqual(["json", "text"]);
});

test("what cannot be asked for with fields is JSON, and what is odd breaks nothing", () => {
  expect(form(undefined).kind).toBe("json");
  expect(form({ type: "object", additionalProperties: true }).kind).toBe("json");
  expect(form({ type: "array", items: { type: "object" } }).kind).toBe("json");
  expect(form({ $ref: "#/$defs/Loop", $defs: { Loop: { $ref: "#/$defs/Loop" } } }).kind).toBe("json");
  expect(form({ $ref: "#/__proto__/x" }).kind).toBe("json");
  expect(form({ type: "object", properties: { a: 5, b: null } } as never).kind).toBe("group");
  const deep: Record<string, unknown> = { type: "object", properties: {} };
  deep["properties"] = { inner: { $ref: "#" } };
  expect(JSON.stringify(form(deep)).length).toBeLessThan(10_000);
});
