// What a plan asks of who says yes to it. The mesh decides; this spares a refusal.

import type { Plan } from "../api/types.ts";

/** What the guests are called that a plan destroys, each once: who says yes types them. A guest without a name is its number. */
export function destroyed(plan: Pick<Plan, "steps" | "targets">): string[] {
  const called = (key: string): string => {
    const target = plan.targets.find((one) => one.guest === key);
    return target ? target.name || String(target.vmid) : key;
  };
  const names = plan.steps.filter((step) => step.operation === "destroy").map((step) => called(step.guest));
  return [...new Set(names)].sort();
}

/** Whether a text names them all, separated by commas, and nothing else. The order and spaces do not matter. */
export function isTyped(text: string, names: string[]): boolean {
  const typed = new Set(text.split(",").map((name) => name.trim()));
  return typed.size === names.length && names.every((name) => typed.has(name));
}
