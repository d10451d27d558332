// Who may speak in the mesh, and what each may. Keys are public ones; identities are made and taken away on the command
// line, where the secret ones are.

import { call } from "../api/client.ts";
import type { Identity } from "../api/types.ts";
import { stamp } from "../lib/format.ts";
import { useAsk } from "../store/ask.ts";
import { me } from "../store/session.ts";
import { Badge, Empty, Loading, Panel, Refused, Scroll, type Tone } from "../ui/base.tsx";

const ROLES: [string, string, Tone][] = [
  ["viewer", "reads", "mute"],
  ["agent", "reads, plans, applies its own plans, asks AI", "info"],
  ["operator", "an agent's rights, and approves, rejects, freezes", "warn"],
  ["owner", "everything", "bad"],
  ["edge", "a machine that only reports about itself", "mute"],
  ["service", "somebody else's agent: it only answers", "mute"],
];

export function Identities() {
  const told = useAsk((signal) => call<{ identities: Identity[] }>("auth", "list", {}, signal), []);
  const all = told.value?.identities ?? [];
  const people = all.filter((one) => one.role);
  const own = all.filter((one) => !one.role);
  return (
    <>
      <div class="head"><h1 tabIndex={-1}>Identities</h1><p class="mute">What each may do, nats-server enforces.</p></div>
      <Refused why={told.refusal} title="Not read" />
      {told.busy && !told.value && <Loading what="identities" />}
      {told.value && (
        <>
          <Panel title="People, agents and machines" flush side={<code class="small mute">nhi auth add NAME --role agent</code>}>
            {people.length === 0 ? <Empty title="There are none." /> : <List of={people} />}
          </Panel>
          <Panel title="The mesh's own" flush><List of={own} /></Panel>
        </>
      )}
      <Panel title="Roles"><dl class="kv">{ROLES.map(([name, about, tone]) => <div key={name}><dt><Badge tone={tone}>{name}</Badge></dt><dd>{about}</dd></div>)}</dl></Panel>
    </>
  );
}

function List({ of }: { of: Identity[] }) {
  return (
    <Scroll label="Identities">
      <table class="data">
        <thead><tr><th scope="col">Name</th><th scope="col">Role</th><th scope="col">Granted besides</th><th scope="col">Added</th><th scope="col">Public key</th></tr></thead>
        <tbody>
          {of.map((one) => (
            <tr key={one.name}>
              <th scope="row">{one.name}{one.name === me() && <> <Badge tone="info">you</Badge></>}</th>
              <td>{one.role ? <Badge tone={ROLES.find(([name]) => name === one.role)?.[2] ?? "mute"}>{one.role}</Badge> : <span class="mute">of the mesh</span>}</td>
              <td>{one.grants.length ? one.grants.join(", ") : <span class="mute">nothing</span>}</td>
              <td class="nowrap small">{stamp(one.added)}</td>
              <td class="mono small key">{one.public_key}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}
