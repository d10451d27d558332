// Places of the graph: whatever the file says, everything has one, and what needs something stands left of it.
import { expect, test } from "vitest";
import { layout, NODE, reach, relations } from "../src/lib/layout.ts";

const LAB = {
  nas: { required_by: ["media"] },
  dns: {},
  docker: { depends_on: ["nas", "dns"] },
  wiki: { depends_on: ["docker"] },
  media: { depends_on: ["ghost"] },
};

test("each stands left of what it needs, and none on another", () => {
  const { places, edges, width, height } = layout(LAB);
  expect([...places.keys()].sort()).toEqual(["dns", "docker", "ghost", "media", "nas", "wiki"]);
  for (const { from, to } of edges) expect(places.get(from)!.x, `${from} → ${to}`).toBeLessThan(places.get(to)!.x);
  const spots = [...places.values()].map((place) => `${place.x} ${place.y}`);
  expect(new Set(spots).size).toBe(spots.length);
  for (const place of places.values()) {
    expect(place.x + NODE.width).toBeLessThanOrEqual(width);
    expect(place.y + NODE.height).toBeLessThanOrEqual(height);
  }
});

test("impact goes through others, in steps", () => {
  const { needs, neededBy } = relations(LAB);
  expect([...reach("nas", neededBy)].sort()).toEqual([["docker", 1], ["media", 1], ["wiki", 2]]);
  expect([...reach("wiki", needs).keys()].sort()).toEqual(["dns", "docker", "nas"]);
});

test("a cycle, a service that needs itself, and nothing at all", () => {
  const cycle = layout({ a: { depends_on: ["b"] }, b: { depends_on: ["c"] }, c: { depends_on: ["a"] }, self: { depends_on: ["self"] } });
  expect(cycle.places.size).toBe(4);
  expect([...reach("a", relations({ a: { depends_on: ["b"] }, b: { depends_on: ["a"] } }).needs).keys()]).toEqual(["b"]);
  expect(layout({}).places.size).toBe(0);
});

test("a thousand services in a chain and in a crowd are placed at once", () => {
  const names = Array.from({ length: 1000 }, (_, at) => `s${at}`);
  const chain = Object.fromEntries(names.map((name, at) => [name, at ? { depends_on: [`s${at - 1}`] } : {}]));
  const crowd = Object.fromEntries(names.map((name) => [name, { depends_on: ["one"] }]));
  const start = performance.now();
  expect(layout(chain).layers.length).toBe(1000);
  expect(layout(crowd).layers.map((layer) => layer.length)).toEqual([1000, 1]);
  expect(performance.now() - start).toBeLessThan(2000);
});
