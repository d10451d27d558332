// Who says yes to a destroy types what goes, as the mesh's gate wants it.
import { expect, test } from "vitest";
import { destroyed, isTyped } from "../src/lib/plan.ts";

const step = (operation: string, guest: string) => ({ operation, guest }) as never;
const target = (guest: string, vmid: number, name: string) => ({ guest, vmid, name }) as never;

test("all that goes, each once; a guest without a name is its number", () => {
  const plan = {
    steps: [step("shutdown", "vm.home.1"), step("destroy", "vm.home.2"), step("destroy", "vm.home.1"), step("destroy", "lxc.home.3"), step("destroy", "vm.home.4")],
    targets: [target("vm.home.1", 1, "web"), target("vm.home.2", 2, "db"), target("lxc.home.3", 3, ""), target("vm.home.4", 4, "web"), target("vm.home.5", 5, "stays")],
  };
  expect(destroyed(plan)).toEqual(["3", "db", "web"]);
  expect(destroyed({ steps: [step("stop", "vm.home.1")], targets: plan.targets })).toEqual([]);
});

test("typed in any order, and nothing too little or too much", () => {
  for (const text of ["db,web", "web, db", " web ,db,web"]) expect(isTyped(text, ["db", "web"]), text).toBe(true);
  for (const text of ["", "db", "db,web,", "db,web,nas", "DB,web", "db web"]) expect(isTyped(text, ["db", "web"]), text).toBe(false);
});
