// A JSON Schema as a form: what can be asked for with fields is, the rest is a field of JSON. The schema comes from a
// service somebody else may have written, so every depth and length has a bound, and what is odd becomes JSON.

import type { Schema } from "../api/types.ts";

export type Field =
  | { kind: "text"; required: boolean; about: string; multiline: boolean }
  | { kind: "number"; required: boolean; about: string; whole: boolean; min?: number; max?: number }
  | { kind: "flag"; required: boolean; about: string; preset: boolean }
  | { kind: "choice"; required: boolean; about: string; options: string[] }
  | { kind: "const"; required: boolean; about: string; value: unknown }
  | { kind: "list"; required: boolean; about: string; whole: boolean | null }
  | { kind: "group"; required: boolean; about: string; fields: [string, Field][] }
  | { kind: "variants"; required: boolean; about: string; variants: { label: string; field: Field }[] }
  | { kind: "json"; required: boolean; about: string };

const DEPTH_MAX = 5;
const FIELDS_MAX = 60;
const ABOUT_MAX = 400;

const isObject = (value: unknown): value is Schema => typeof value === "object" && value !== null && !Array.isArray(value);
const list = (value: unknown): unknown[] => (Array.isArray(value) ? value : []);

export function form(schema: Schema | null | undefined): Field {
  if (!isObject(schema)) return { kind: "json", required: false, about: "" };
  return field(schema, schema, true, 0);
}

function resolve(schema: Schema, root: Schema): Schema {
  let at = schema;
  for (let hops = 0; hops < 8; hops += 1) {
    const ref = at["$ref"];
    if (typeof ref !== "string" || !ref.startsWith("#/")) return at;
    let target: unknown = root;
    for (const part of ref.slice(2).split("/")) {
      const name = part.replace(/~1/g, "/").replace(/~0/g, "~");
      target = isObject(target) && Object.hasOwn(target, name) ? target[name] : undefined;
    }
    if (!isObject(target)) return {};
    // A description beside the reference is nearer to the field.
    const { $ref: _, ...beside } = at;
    at = { ...target, ...beside };
  }
  return {};
}

/** Without the `null` that says that a field may be absent. */
function withoutNull(schema: Schema, root: Schema): Schema {
  const type = schema["type"];
  if (Array.isArray(type)) {
    const others = type.filter((one) => one !== "null");
    return others.length === 1 ? { ...schema, type: others[0] } : schema;
  }
  const any = list(schema["anyOf"]).filter(isObject);
  const others = any.filter((one) => one["type"] !== "null");
  if (any.length > 1 && others.length === 1) {
    const { anyOf: _, ...rest } = schema;
    return { ...resolve(others[0] as Schema, root), ...rest };
  }
  return schema;
}

function field(raw: Schema, root: Schema, required: boolean, depth: number): Field {
  const schema = withoutNull(resolve(raw, root), root);
  const about = typeof schema["description"] === "string" ? schema["description"].slice(0, ABOUT_MAX) : "";
  const base = { required, about };
  if (depth > DEPTH_MAX) return { kind: "json", ...base };
  if ("const" in schema) return { kind: "const", value: schema["const"], ...base };
  const options = list(schema["enum"]);
  if (options.length > 0 && options.every((one) => typeof one === "string")) {
    return { kind: "choice", options: (options as string[]).slice(0, FIELDS_MAX), ...base };
  }
  // One that only requires says which fields go together; it is no other shape.
  const several = [...list(schema["oneOf"]), ...list(schema["anyOf"])].filter(isObject).filter((one) => {
    const words = Object.keys(one);
    return words.length !== 1 || words[0] !== "required";
  });
  if (several.length > 0) return variants(several, root, base, depth);
  switch (schema["type"]) {
    case "string":
      return { kind: "text", multiline: false, ...base };
    case "integer":
    case "number":
      return numeric(schema, base);
    case "boolean":
      return { kind: "flag", preset: schema["default"] === true, ...base };
    case "array":
      return listed(schema, root, base);
    case "object":
      return group(schema, root, base, depth);
    default:
      return isObject(schema["properties"]) ? group(schema, root, base, depth) : { kind: "json", ...base };
  }
}

type Base = { required: boolean; about: string };

function numeric(schema: Schema, base: Base): Field {
  const out: Field = { kind: "number", whole: schema["type"] === "integer", ...base };
  if (typeof schema["minimum"] === "number") out.min = schema["minimum"];
  if (typeof schema["maximum"] === "number") out.max = schema["maximum"];
  return out;
}

function listed(schema: Schema, root: Schema, base: Base): Field {
  const items = isObject(schema["items"]) ? resolve(schema["items"], root) : {};
  if (items["type"] === "string") return { kind: "list", whole: null, ...base };
  if (items["type"] === "integer" || items["type"] === "number") return { kind: "list", whole: items["type"] === "integer", ...base };
  return { kind: "json", ...base };
}

function group(schema: Schema, root: Schema, base: Base, depth: number): Field {
  const properties = isObject(schema["properties"]) ? schema["properties"] : {};
  const names = Object.keys(properties).slice(0, FIELDS_MAX);
  // An object without named fields is a map: only JSON can say it.
  if (names.length === 0) return isObject(schema["additionalProperties"]) || schema["additionalProperties"] === true ? { kind: "json", ...base } : { kind: "group", fields: [], ...base };
  const needed = new Set(list(schema["required"]));
  const fields = names.map((name): [string, Field] => {
    const inner = properties[name];
    return [name, isObject(inner) ? field(inner, root, needed.has(name), depth + 1) : { kind: "json", required: needed.has(name), about: "" }];
  });
  // Required ones first, else as the schema has them.
  fields.sort((a, b) => Number(b[1].required) - Number(a[1].required));
  return { kind: "group", fields, ...base };
}

function variants(several: Schema[], root: Schema, base: Base, depth: number): Field {
  const consts = several.map((one) => resolve(one, root)).map((one) => one["const"]);
  if (consts.every((one) => typeof one === "string")) return { kind: "choice", options: consts as string[], ...base };
  const all = several.slice(0, FIELDS_MAX).map((one) => {
    const inner = field(one, root, true, depth + 1);
    return { label: label(inner), field: inner };
  });
  return { kind: "variants", variants: all, ...base };
}

/** A variant is called by its constant (`do: start`), else by its fields. */
function label(inner: Field): string {
  if (inner.kind === "group") {
    const fixed = inner.fields.find(([, one]) => one.kind === "const");
    if (fixed && fixed[1].kind === "const") return String(fixed[1].value);
    return inner.fields.map(([name]) => name).join(", ") || "nothing";
  }
  return inner.kind === "const" ? String(inner.value) : inner.about || inner.kind;
}

/** What a field holds before anybody touches it; `undefined` is left out of the request. */
export function preset(of: Field): unknown {
  switch (of.kind) {
    case "const":
      return of.value;
    case "flag":
      return of.preset || undefined;
    case "group": {
      if (!of.required) return undefined;
      const whole: Record<string, unknown> = {};
      for (const [name, inner] of of.fields) {
        const value = inner.required || inner.kind === "flag" ? preset(inner) : undefined;
        if (value !== undefined) whole[name] = value;
      }
      return whole;
    }
    case "variants":
      return of.required && of.variants[0] ? preset(of.variants[0].field) : undefined;
    case "choice":
      return of.required ? of.options[0] : undefined;
    case "text":
    case "number":
    case "list":
    case "json":
      return undefined;
  }
}

/** What is still missing before the request can be sent, by path. */
export function missing(of: Field, value: unknown, at = ""): string[] {
  if (value === undefined || value === "") return of.required && of.kind !== "group" ? [at || "request"] : [];
  if (of.kind === "group" && isObject(value)) {
    return of.fields.flatMap(([name, inner]) => missing(inner, value[name], at ? `${at}.${name}` : name));
  }
  return [];
}
