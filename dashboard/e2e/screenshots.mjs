// Makes the pictures in docs/img anew, from a demo mesh that something has happened to. Run as the tests are, by hand.
import { join } from "node:path";
import { call, edit, launch, open, PHONE, signIn, visit } from "./house.mjs";

const IMG = join(import.meta.dirname, "../../docs/img");
const browser = await launch();

async function shot(name, { viewport = { width: 1280, height: 800 }, theme = "light" }, hash, act) {
  const page = await open(browser, { viewport, theme });
  await signIn(page, "owner", hash);
  await visit(page, hash);
  // Nothing is pointed at.
  await page.mouse.move(0, 0);
  await page.waitForTimeout(1200);
  await act?.(page);
  await page.screenshot({ path: join(IMG, `${name}.png`) });
  await page.context().close();
}

const sees = async (vmid, status) => {
  for (let round = 0; round < 60; round += 1) {
    const { records } = await call("owner", "state", "get", { select: [`vm.home.${vmid}`] });
    if (Object.values(records)[0]?.record.status === status) return;
    await new Promise((done) => setTimeout(done, 500));
  }
  throw new Error(`VM ${vmid} is not ${status}`);
};

await edit(108, { do: "power", to: "stopped" });
await sees(108, "stopped");
const before = new Date().toISOString();
await edit(107, { do: "power", to: "running" });
await edit(106, { do: "power", to: "running" });
await sees(107, "running");
await sees(106, "running");
const { record } = await call("helper", "act", "plan", { intent: { do: "shutdown", guest: "107" }, reason: "nothing is built at night" });
await call("owner", "act", "approve", { plan: record.plan.id, digest: record.plan.digest });
await call("helper", "act", "apply", { plan: record.plan.id, digest: record.plan.digest });
await sees(107, "stopped");
await call("helper", "act", "plan", { intent: { do: "all", of: [{ do: "snapshot", guest: "106", name: "before-upgrade" }, { do: "set", guest: "106", settings: { cores: 4, memory_mib: 8192 } }] }, reason: "the upgrade needs room" });
const { plans } = await call("owner", "act", "list", { open: true });

const ask = async (page) => {
  await page.getByLabel("Your question").fill("What is a semaphore?");
  await page.getByLabel("Your question").press("Enter");
  await page.locator(".turn .why").filter({ hasText: / s$/ }).waitFor();
};
await shot("overview", {}, "#/overview");
await shot("overview-dark", { theme: "dark" }, "#/overview");
await shot("past", { theme: "dark" }, `#/overview?at=${before}&span=1h`);
await shot("plan", {}, `#/plan/${plans[0].plan}`);
await shot("run", { theme: "dark" }, `#/plan/${record.plan.id}`);
await shot("graph", {}, "#/graph/truenas");
await shot("ai", { theme: "dark" }, "#/ai", ask);
await shot("phone", { viewport: PHONE, theme: "dark" }, "#/overview");
await shot("phone-graph", { viewport: PHONE }, "#/graph/truenas");
await browser.close();
