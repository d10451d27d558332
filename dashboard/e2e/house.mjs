// What the tests share: a browser, a signed-in page, and the other people and machines of the demo.
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

function need(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set; tests/tests/interop/dashboard.rs says what it is`);
  return value.trim();
}

export const URL_ = need("NHI_URL");
const DIR = need("NHI_LAB");
export const keyOf = (name) => readFileSync(`${DIR}/.nhi/keys/${name}.nk`, "utf8").trim();

const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

export function launch() {
  return chromium.launch({ executablePath: process.env.NHI_CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
}

export const DESK = { width: 1440, height: 900 };
export const PHONE = { width: 390, height: 844 };

/** A page in a context of its own. What the browser complains of is kept in `page.complaints`. */
export async function open(browser, { viewport = DESK, theme = "light", reduced = true } = {}) {
  const context = await browser.newContext({ viewport, colorScheme: theme, reducedMotion: reduced ? "reduce" : "no-preference", locale: "en-GB", timezoneId: "UTC" });
  const page = await context.newPage();
  page.setDefaultTimeout(Number(process.env.NHI_PATIENCE_MS ?? 20_000));
  page.complaints = [];
  page.on("pageerror", (error) => page.complaints.push(error.message));
  page.on("console", (message) => {
    // A refusal is an answer: the browser notes its status, and the page shows it.
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) page.complaints.push(message.text());
  });
  return page;
}

export async function signIn(page, name = "owner", hash = "#/overview") {
  await page.goto(`${URL_}/${hash}`);
  await page.getByLabel("Key").fill(keyOf(name));
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.locator(".linked[data-link=live]").waitFor();
}

export async function visit(page, hash) {
  await page.goto(`${URL_}/${hash}`);
  await page.locator("#main h1").first().waitFor({ state: "attached" });
  await page.locator(".loading").first().waitFor({ state: "detached" });
}

/** Somebody else's call. */
export async function call(name, service, endpoint, body) {
  const headers = { authorization: `Bearer ${keyOf(name)}`, "content-type": "application/json" };
  const response = await fetch(`${URL_}/mesh/${service}/${endpoint}`, { method: "POST", headers, body: JSON.stringify(body) });
  return response.json();
}

/** Changes a guest behind everybody's back, at the simulated lab's control endpoint. */
export async function edit(vmid, change) {
  const response = await fetch(`${need("NHI_CONTROL")}/guest`, { method: "POST", body: JSON.stringify({ vmid, edit: change }) });
  if (!response.ok) throw new Error(`the simulated lab refuses: ${await response.text()}`);
}

export const PAGES = ["overview", "graph/truenas", "plans", "ai", "audit", "mesh", "identities", "changes", "guest/vm.home.103", "record/node.home.pve1"];
