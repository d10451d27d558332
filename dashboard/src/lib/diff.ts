// What differs between two versions of a record, field by field, and in words. It does not judge what matters.

import type { FieldDiff, RecordDiff, StateRecord } from "../api/types.ts";
import { bytes, inline } from "./format.ts";

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** Changed leaves by JSON pointer. Lists are compared whole: their places mean nothing here. */
export function fields(before: unknown, after: unknown, at = ""): Record<string, FieldDiff> {
  if (isObject(before) && isObject(after)) {
    const names = [...new Set([...Object.keys(before), ...Object.keys(after)])].sort();
    const all: Record<string, FieldDiff> = {};
    for (const name of names) {
      Object.assign(all, fields(before[name], after[name], `${at}/${name.replace(/~/g, "~0").replace(/\//g, "~1")}`));
    }
    return all;
  }
  if (JSON.stringify(before) === JSON.stringify(after)) return {};
  return { [at]: { before: before ?? null, after: after ?? null } };
}

export function between(before: Record<string, unknown> | undefined, after: Record<string, unknown> | undefined): RecordDiff | undefined {
  if (!before) return after ? { kind: "added", record: after } : undefined;
  if (!after) return { kind: "removed", record: before };
  const changed = fields(before, after);
  return Object.keys(changed).length > 0 ? { kind: "changed", fields: changed } : undefined;
}

/** `/memory_bytes` → `memory` */
export function fieldName(pointer: string): string {
  const names = pointer.split("/").slice(1).map((name) => name.replace(/~1/g, "/").replace(/~0/g, "~"));
  return names.join(" ").replace(/_bytes$/, "").replace(/_/g, " ") || "the record";
}

export function fieldValue(pointer: string, value: unknown): string {
  if (typeof value === "number" && pointer.endsWith("_bytes")) return bytes(value) ?? "—";
  if (Array.isArray(value) && pointer.endsWith("/addresses")) {
    return value.map((one) => (isObject(one) ? inline(one["address"]) : inline(one))).join(", ") || "none";
  }
  return inline(value);
}

/** Digests follow what they are of; they only matter where nothing else is told. */
const QUIET = /digest$|^\/address_source/;

/** `status running → stopped, node pve1 → pve2` */
export function words(diff: RecordDiff | undefined): string {
  if (!diff) return "written again, nothing differs";
  if (diff.kind === "added") return "appeared";
  if (diff.kind === "removed") return "went away";
  const pointers = Object.keys(diff.fields);
  const loud = pointers.filter((pointer) => !QUIET.test(pointer));
  const shown = (loud.length > 0 ? loud : pointers).slice(0, 3);
  const parts = shown.map((pointer) => {
    const field = diff.fields[pointer];
    return `${fieldName(pointer)} ${fieldValue(pointer, field?.before)} → ${fieldValue(pointer, field?.after)}`;
  });
  const more = (loud.length > 0 ? loud : pointers).length - shown.length;
  return more > 0 ? `${parts.join(", ")} and ${more} more` : parts.join(", ");
}

/** What a new version says against the one before it; that a record went stale is no field of it. */
export function story(before: StateRecord | undefined, after: StateRecord | undefined): string {
  const diff = between(before?.record, after?.record);
  const turned = after?.stale && !before?.stale ? `went stale: ${after.stale.reason}` : before?.stale && after && !after.stale ? "came back into sight" : "";
  if (before && turned) return diff ? `${words(diff)}; ${turned}` : turned;
  if (before && after?.stale && !diff) return `stayed stale: ${after.stale.reason}`;
  return words(diff);
}
