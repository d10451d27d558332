// A plan's checkable statements as sentences. An unknown one is told as it is, never dropped.

import type { Fact } from "../api/types.ts";
import { bytes, inline, stamp } from "./format.ts";

export function sentence(fact: Fact, nameOf: (key: string) => string): string {
  const guest = fact.guest ? nameOf(fact.guest) : "";
  const say = (field: string): string => inline(fact[field]);
  switch (fact.is) {
    case "quorate":
      return "the cluster has quorum";
    case "node-online":
      return `node ${say("node")} answers`;
    case "exists":
      return `${guest} is there`;
    case "gone":
      return `${guest} is gone from every node`;
    case "same-guest":
      return `${guest} is still the guest that was meant`;
    case "named":
      return `${guest} is named ${say("name")}`;
    case "on-node":
      return `${guest} is on ${say("node")}`;
    case "status":
      return `${guest} is ${say("status")}`;
    case "unlocked":
      return `no lock is held on ${guest}`;
    case "unprotected":
      return `${guest} is not protected`;
    case "config-digest":
      return `${guest} is configured exactly as it was read`;
    case "config":
      return fact["value"] === undefined ? `${guest} has no line ${say("field")}` : `${guest} has ${say("field")} = ${say("value")}`;
    case "disk-at-least":
      return `disk ${say("disk")} of ${guest} is at least ${bytes(fact["bytes"] as number) ?? "—"}`;
    case "snapshot":
      return `${guest} ${fact["present"] ? "has" : "has no"} snapshot ${say("name")}`;
    case "snapshot-count":
      return `${guest} has ${say("count")} snapshots`;
    case "processors":
      return `${guest} has ${say("count")} processors`;
    case "template":
      return `${guest} ${fact["template"] ? "is" : "is not"} a template`;
    case "ha-managed":
      return `${guest} ${fact["managed"] ? "is" : "is not"} managed by HA`;
    case "backup-since":
      return `there is a backup of ${guest} made since ${stamp(fact["since"] as string) ?? "—"}`;
    default:
      return JSON.stringify(fact);
  }
}
