// Which guest carries a service: the one of its name, in any case.
import { expect, test } from "vitest";
import { reach, relations } from "../src/lib/layout.ts";
import { carriers } from "../src/lib/services.ts";

test("names are compared in any case, numbers never", () => {
  const guests = [{ name: "NAS", vmid: 101 }, { name: "nas", vmid: 102 }, { name: "web", vmid: 103 }, { name: "", vmid: 104 }, { vmid: 105 }];
  const found = carriers(["nas", "Web", "103", "", "dns"], guests);
  expect([...found].map(([service, all]) => [service, all.map((one) => one.vmid)])).toEqual([["nas", [101, 102]], ["Web", [103]]]);
});

test("a guest of two services needs what either needs, and itself is left out", () => {
  const { needs, neededBy } = relations({ NAS: { depends_on: ["power"] }, nas: { depends_on: ["NAS", "lan"] }, media: { depends_on: ["nas"] } });
  const own = [...carriers(needs.keys(), [{ name: "Nas" }]).keys()];
  expect([...reach(own, needs).keys()].sort()).toEqual(["lan", "power"]);
  expect([...reach(own, neededBy).keys()]).toEqual(["media"]);
});
