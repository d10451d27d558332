// The frame of the pages: who is signed in, where to go, whether the feed lives, dark or light. Each page is its own file.

import "./styles/main.css";
import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { effect } from "@preact/signals";
import { clock } from "./lib/format.ts";
import { Ai } from "./pages/ai.tsx";
import { Audit } from "./pages/audit.tsx";
import { Changes } from "./pages/changes.tsx";
import { GraphPage } from "./pages/graph.tsx";
import { GuestPage } from "./pages/guest.tsx";
import { Identities } from "./pages/identities.tsx";
import { MeshPage } from "./pages/mesh.tsx";
import { Overview } from "./pages/overview.tsx";
import { PlanPage } from "./pages/plan.tsx";
import { Plans } from "./pages/plans.tsx";
import { RecordPage } from "./pages/record.tsx";
import { SignIn } from "./pages/signin.tsx";
import { second, startClock } from "./store/clock.ts";
import { lab, link, restWhileHidden, retry, startFeed, stopFeed } from "./store/lab.ts";
import { route } from "./store/route.ts";
import { resume, session, signOut } from "./store/session.ts";
import { theme, type Theme } from "./store/theme.ts";
import { Dialog, Empty } from "./ui/base.tsx";
import { Boundary } from "./ui/boundary.tsx";
import { Icon } from "./ui/icons.tsx";
import { Toast } from "./ui/toast.tsx";

const PAGES: [string, string, string[]][] = [
  ["overview", "Overview", ["guest", "record", "changes"]],
  ["graph", "Graph", []],
  ["plans", "Plans", ["plan"]],
  ["ai", "AI", []],
  ["audit", "Audit", []],
  ["mesh", "Mesh", []],
  ["identities", "Identities", []],
];
/** As many as fit beside each other on a phone; the rest is behind one more. */
const FIRST = 4;

function Page() {
  const { page, argument } = route.value;
  switch (page) {
    case "overview":
      return <Overview />;
    case "guest":
      return <GuestPage key={argument} id={argument} />;
    case "record":
      return <RecordPage key={argument} id={argument} />;
    case "changes":
      return <Changes />;
    case "graph":
      return <GraphPage focus={argument} />;
    case "plans":
      return <Plans />;
    case "plan":
      return <PlanPage key={argument} id={argument} />;
    case "ai":
      return <Ai />;
    case "audit":
      return <Audit />;
    case "identities":
      return <Identities />;
    case "mesh":
      return <MeshPage name={argument} />;
    default:
      return <><h1 tabIndex={-1}>Not here</h1><Empty title={`There is no page “${page}”.`}><a href="#/overview">Overview</a></Empty></>;
  }
}

function Nav() {
  const [more, open] = useState(false);
  const here = route.value.page;
  const current = (name: string, also: string[]): "page" | undefined => (name === here || also.includes(here) ? "page" : undefined);
  const item = ([name, text, also]: (typeof PAGES)[number]) => (
    <li key={name}><a href={`#/${name}`} aria-current={current(name, also)} onClick={() => open(false)}><Icon name={name} /><span>{text}</span></a></li>
  );
  return (
    <nav class="nav" aria-label="Pages">
      <ul class="plain">
        {PAGES.slice(0, FIRST).map(item)}
        {PAGES.slice(FIRST).map((one) => <li key={one[0]} class="later"><a href={`#/${one[0]}`} aria-current={current(one[0], one[2])}><Icon name={one[0]} /><span>{one[1]}</span></a></li>)}
        <li class="morebutton"><button type="button" aria-haspopup="dialog" onClick={() => open(true)}><Icon name="more" /><span>More</span></button></li>
      </ul>
      <Dialog title="More" open={more} onClose={() => open(false)}>
        <ul class="plain morelist">{PAGES.slice(FIRST).map(item)}</ul>
        <Account />
      </Dialog>
    </nav>
  );
}

const THEMES: [Theme, string, string][] = [["system", "As the system", "system"], ["light", "Light", "sun"], ["dark", "Dark", "moon"]];

function ThemeButton() {
  const at = THEMES.findIndex(([name]) => name === theme.value);
  const [, text, icon] = THEMES[at] ?? THEMES[0]!;
  const next = THEMES[(at + 1) % THEMES.length] ?? THEMES[0]!;
  return (
    <button type="button" class="btn quiet square" aria-label={`Colours: ${text.toLowerCase()}. Change to ${next[1].toLowerCase()}`} title={`Colours: ${text.toLowerCase()}`} onClick={() => (theme.value = next[0])}>
      <Icon name={icon} />
    </button>
  );
}

function Account() {
  const now = session.value;
  if (now.is !== "in") return null;
  return (
    <div class="account">
      <span class="who"><strong>{now.who.name}</strong> <span class="mute small">{now.who.role ?? "of the mesh"}</span></span>
      <button type="button" class="btn quiet square" aria-label="Sign out" title={`Sign out; the session ends by itself at ${clock(now.who.expires_at)}`} onClick={() => void signOut()}><Icon name="out" /></button>
    </div>
  );
}

function Linked() {
  const now = link.value;
  const text = now.is === "live" ? "live" : now.is === "connecting" ? "connecting" : "connection lost";
  return <span class="linked" data-link={now.is} role="status"><span class="pulse" aria-hidden="true" />{text}</span>;
}

function Lost() {
  const now = link.value;
  if (now.is !== "lost") return null;
  const left = Math.max(0, Math.ceil((now.again - Date.now()) / 1000));
  void second.value;
  return (
    <div class="lost" role="alert">
      <p><strong>Connection lost</strong> at {clock(now.since)}: {now.why}. {lab.value ? "What is shown is as it was then." : ""}</p>
      <p class="small">{left > 0 ? `Trying again in ${left} s` : "Trying again …"} <button type="button" class="btn" onClick={retry}>Try now</button></p>
    </div>
  );
}

function Frame() {
  const { page, argument } = route.value;
  useEffect(() => {
    const heading = document.querySelector<HTMLElement>("#main h1");
    document.title = `${PAGES.find(([name, , also]) => name === page || also.includes(page))?.[1] ?? "Neural-Home"}${argument ? ` · ${argument}` : ""} · Neural-Home`;
    window.scrollTo(0, 0);
    // The first page keeps the browser's own focus.
    if (moved) heading?.focus({ preventScroll: true });
    moved = true;
  }, [page, argument]);
  return (
    <div class="frame" data-link={link.value.is}>
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); document.getElementById("main")?.focus(); }}>Skip to the content</a>
      <header class="top">
        <a class="brand" href="#/overview"><svg viewBox="0 0 32 32" width="22" height="22" aria-hidden="true"><rect class="plate" width="32" height="32" rx="7" /><path class="sign" d="M7 16 16 8l9 8M10 15v9h12v-9" /><circle class="sign-dot" cx="16" cy="18.500" r="2.400" /></svg>Neural-Home</a>
        <Linked />
        <ThemeButton />
        <div class="onlywide"><Account /></div>
      </header>
      <Nav />
      <main id="main" tabIndex={-1}>
        <Lost />
        <Boundary key={`${page}/${argument}`}>
          <Page />
        </Boundary>
      </main>
      <Toast />
    </div>
  );
}

let moved = false;

function App() {
  const now = session.value;
  if (now.is === "asking") return <p class="loading door" role="status">looking who you are …</p>;
  return now.is === "in" ? <Frame /> : <SignIn />;
}

effect(() => {
  if (session.value.is === "in") startFeed();
  else if (session.value.is === "out") stopFeed(true);
});
startClock();
restWhileHidden();
void resume();
const root = document.getElementById("app");
if (root) render(<App />, root);
