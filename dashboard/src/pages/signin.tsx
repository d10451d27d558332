// The door: an identity's key for a session.

import { useState } from "preact/hooks";
import { session, signIn } from "../store/session.ts";
import { Field, Refused } from "../ui/base.tsx";

export function SignIn() {
  const [key, set] = useState("");
  const [busy, work] = useState(false);
  const now = session.value;
  const why = now.is === "out" ? now.why : undefined;
  const enter = async (): Promise<void> => {
    work(true);
    await signIn(key.trim());
    set("");
    work(false);
  };
  return (
    <main class="door" id="main">
      <form class="panel" onSubmit={(event) => { event.preventDefault(); void enter(); }}>
        <div class="body">
          <h1 tabIndex={-1}>Neural-Home</h1>
          <p class="mute">Sign in with an identity's key. What you may do here is what that identity may do on the mesh.</p>
          <Field label="Key" name="key" hint="the line that begins with SU in .nhi/keys/owner.nk">
            <input id="key" name="key" type="password" autocomplete="current-password" required spellcheck={false} value={key} onInput={(event) => set(event.currentTarget.value)} aria-describedby="key-hint" />
          </Field>
          <Refused why={why} title={why?.message === "the session is over" ? "Signed out" : why?.status === 401 ? "Not let in" : "Not possible"} />
          <button type="submit" class="btn primary block" disabled={busy || key.trim() === ""}>{busy ? "looking …" : "Sign in"}</button>
          <p class="small mute">The key is sent once and not kept; a session of twelve hours at most stays in a cookie that no script can read. <code>nhi auth add NAME --role viewer</code> makes a key for somebody else.</p>
        </div>
      </form>
    </main>
  );
}
