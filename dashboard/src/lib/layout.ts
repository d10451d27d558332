// The dependency graph in layers: what needs nothing stands at the right, what needs it to the left of that. Order within
// a layer by the middle of the neighbours, a few sweeps. Data in, places out; it draws nothing.

import type { GraphService } from "../api/types.ts";

export type Place = { name: string; layer: number; row: number; x: number; y: number };
export type Edge = { from: string; to: string };
export type Layout = { places: Map<string, Place>; edges: Edge[]; layers: string[][]; width: number; height: number };

export const NODE = { width: 176, height: 40, gapX: 64, gapY: 16, pad: 12 };

/** What each needs and what needs each, from either side of the file, names without a row included. */
export function relations(services: Record<string, GraphService>): { needs: Map<string, Set<string>>; neededBy: Map<string, Set<string>> } {
  const needs = new Map<string, Set<string>>();
  const neededBy = new Map<string, Set<string>>();
  const add = (from: string, to: string): void => {
    for (const name of [from, to]) {
      if (!needs.has(name)) needs.set(name, new Set());
      if (!neededBy.has(name)) neededBy.set(name, new Set());
    }
    if (from === to) return;
    needs.get(from)?.add(to);
    neededBy.get(to)?.add(from);
  };
  for (const [name, service] of Object.entries(services)) {
    add(name, name);
    for (const needed of service.depends_on ?? []) add(name, needed);
    for (const needing of service.required_by ?? []) add(needing, name);
  }
  return { needs, neededBy };
}

/** Everything reached, without the starts: what falls with them, or what they stand on. */
export function reach(starts: string | string[], next: Map<string, Set<string>>): Map<string, number> {
  const seen = new Map<string, number>();
  const first = new Set([starts].flat());
  let front = [...first];
  for (let steps = 1; front.length > 0; steps += 1) {
    const found: string[] = [];
    for (const name of front) {
      for (const other of next.get(name) ?? []) {
        if (first.has(other) || seen.has(other)) continue;
        seen.set(other, steps);
        found.push(other);
      }
    }
    front = found;
  }
  return seen;
}

/** Longest way to something that needs nothing. A cycle, which the mesh refuses, is cut where it closes. */
function depths(needs: Map<string, Set<string>>): Map<string, number> {
  const depth = new Map<string, number>();
  const open = new Set<string>();
  const visit = (name: string): number => {
    const known = depth.get(name);
    if (known !== undefined) return known;
    if (open.has(name)) return -1;
    open.add(name);
    let deepest = -1;
    for (const needed of [...(needs.get(name) ?? [])].sort()) deepest = Math.max(deepest, visit(needed));
    open.delete(name);
    depth.set(name, deepest + 1);
    return deepest + 1;
  };
  for (const name of [...needs.keys()].sort()) visit(name);
  return depth;
}

const SWEEPS = 6;

export function layout(services: Record<string, GraphService>): Layout {
  const { needs, neededBy } = relations(services);
  const depth = depths(needs);
  const deepest = Math.max(0, ...depth.values());
  const layers: string[][] = Array.from({ length: needs.size === 0 ? 0 : deepest + 1 }, () => []);
  for (const name of [...needs.keys()].sort()) layers[deepest - (depth.get(name) ?? 0)]?.push(name);

  const row = new Map<string, number>();
  const number = (layer: string[]): void => layer.forEach((name, at) => row.set(name, at));
  layers.forEach(number);
  const middle = (name: string, of: Map<string, Set<string>>): number => {
    const rows = [...(of.get(name) ?? [])].map((other) => row.get(other) ?? 0);
    return rows.length === 0 ? (row.get(name) ?? 0) : rows.reduce((sum, one) => sum + one, 0) / rows.length;
  };
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
    const forward = sweep % 2 === 0;
    for (const layer of forward ? layers : [...layers].reverse()) {
      const at = new Map(layer.map((name) => [name, middle(name, forward ? neededBy : needs)]));
      layer.sort((a, b) => (at.get(a) ?? 0) - (at.get(b) ?? 0) || a.localeCompare(b));
      number(layer);
    }
  }

  const tallest = Math.max(1, ...layers.map((layer) => layer.length));
  const height = tallest * (NODE.height + NODE.gapY) - NODE.gapY + 2 * NODE.pad;
  const places = new Map<string, Place>();
  layers.forEach((layer, at) => {
    const used = layer.length * (NODE.height + NODE.gapY) - NODE.gapY;
    const top = (height - used) / 2;
    layer.forEach((name, index) => {
      const x = NODE.pad + at * (NODE.width + NODE.gapX);
      places.set(name, { name, layer: at, row: index, x, y: top + index * (NODE.height + NODE.gapY) });
    });
  });
  const edges = [...needs].flatMap(([from, others]) => [...others].sort().map((to) => ({ from, to })));
  const width = layers.length * (NODE.width + NODE.gapX) - NODE.gapX + 2 * NODE.pad;
  return { places, edges, layers, width: Math.max(width, 0), height };
}
