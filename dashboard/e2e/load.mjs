// Opens the pages again and again as a browser that was never here, and something small beside them; says how long each
// took, a line of JSON a load. tests/benches/dashboard.rs runs it and makes the table.
import { DESK, keyOf, launch, URL_ } from "./house.mjs";

const LOADS = Number(process.argv[2] ?? 100);
/** Not counted: the browser starts parts of itself. */
const WARM_UP = 3;

/** Kept until the frame that shows it was drawn: a callback before the next one runs right after that. */
function watch(selector) {
  window.shown = new Promise((done) => {
    const look = () => {
      if (document.querySelector(selector) && document.readyState !== "loading") requestAnimationFrame(() => done(performance.now()));
      else requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
  });
}

async function signedIn() {
  const headers = { "content-type": "application/json" };
  const response = await fetch(`${URL_}/session`, { method: "POST", headers, body: JSON.stringify({ key: keyOf("owner") }) });
  if (!response.ok) throw new Error(`not let in: ${await response.text()}`);
  const [name, value] = response.headers.getSetCookie()[0].split(";")[0].split("=");
  return { name, value, url: URL_, httpOnly: true, sameSite: "Strict" };
}

/** Heads and bodies as they came over the wire. Of an answer that goes on, what has come so far. */
async function count(page) {
  const network = await page.context().newCDPSession(page);
  const bytes = new Map();
  const add = (id, more) => bytes.set(id, (bytes.get(id) ?? 0) + more);
  network.on("Network.responseReceived", ({ requestId, response }) => add(requestId, response.encodedDataLength));
  network.on("Network.dataReceived", ({ requestId, encodedDataLength }) => add(requestId, encodedDataLength));
  network.on("Network.loadingFinished", ({ requestId, encodedDataLength }) => bytes.set(requestId, encodedDataLength));
  await network.send("Network.enable");
  return () => ({ requests: bytes.size, bytes: [...bytes.values()].reduce((sum, one) => sum + one, 0) });
}

/** From the start of the navigation until what is looked for was drawn. A context of its own has nothing cached. */
async function load(browser, cookie, path, selector) {
  const context = await browser.newContext({ viewport: DESK });
  try {
    await context.addCookies([cookie]);
    const page = await context.newPage();
    const counted = await count(page);
    await page.addInitScript(watch, selector);
    await page.goto(`${URL_}${path}`, { waitUntil: "commit" });
    const ms = await page.evaluate(() => window.shown);
    return { ms, ...counted() };
  } finally {
    await context.close();
  }
}

const browser = await launch();
const cookie = await signedIn();
for (let round = -WARM_UP; round < LOADS; round += 1) {
  const overview = await load(browser, cookie, "/#/overview", 'tr[data-key^="vm."]');
  const health = await load(browser, cookie, "/healthz", "body");
  if (round >= 0) console.log(JSON.stringify({ overview, health }));
}
await browser.close();
