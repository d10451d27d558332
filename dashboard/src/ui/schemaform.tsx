// A form generated from a schema. It makes JSON and sends nothing.

import { useId, useState } from "preact/hooks";
import { preset, type Field } from "../lib/schema.ts";

type Change = (value: unknown) => void;

export function SchemaForm({ field, value, onChange }: { field: Field; value: unknown; onChange: Change }) {
  return field.kind === "group" ? <Group field={field} value={value} onChange={onChange} /> : <One name="request" field={field} value={value} onChange={onChange} />;
}

function Group({ field, value, onChange }: { field: Extract<Field, { kind: "group" }>; value: unknown; onChange: Change }) {
  const now = (typeof value === "object" && value !== null ? value : {}) as Record<string, unknown>;
  if (field.fields.length === 0) return <p class="small mute">It takes no fields.</p>;
  const set = (name: string, inner: unknown): void => {
    const next = { ...now };
    if (inner === undefined || inner === "") delete next[name];
    else next[name] = inner;
    onChange(next);
  };
  return <>{field.fields.map(([name, inner]) => <One key={name} name={name} field={inner} value={now[name]} onChange={(one) => set(name, one)} />)}</>;
}

function One({ name, field, value, onChange }: { name: string; field: Field; value: unknown; onChange: Change }) {
  const id = useId();
  const hint = field.about ? `${id}-hint` : undefined;
  const about = field.about ? <p class="hint" id={hint}>{field.about}</p> : null;
  const label = <label for={id}>{name}{field.required && <span class="req" title="required"> *</span>}</label>;
  const common = { id, "aria-describedby": hint };
  switch (field.kind) {
    case "const":
      return <p class="small">{name}: <code>{JSON.stringify(field.value)}</code></p>;
    case "flag":
      return <div class="field"><label class="check" for={id}><input {...common} type="checkbox" checked={value === true} onChange={(event) => onChange(event.currentTarget.checked || undefined)} />{name}</label>{about}</div>;
    case "text":
      return <div class="field">{label}<input {...common} required={field.required} value={typeof value === "string" ? value : ""} onInput={(event) => onChange(event.currentTarget.value || undefined)} />{about}</div>;
    case "number":
      return <div class="field">{label}<input {...common} type="number" required={field.required} min={field.min} max={field.max} step={field.whole ? 1 : "any"} value={typeof value === "number" ? value : ""} onInput={(event) => onChange(event.currentTarget.value === "" ? undefined : Number(event.currentTarget.value))} />{about}</div>;
    case "choice":
      return <div class="field">{label}<select {...common} value={typeof value === "string" ? value : ""} onChange={(event) => onChange(event.currentTarget.value || undefined)}>{!field.required && <option value="">not said</option>}{field.options.map((one) => <option key={one} value={one}>{one}</option>)}</select>{about}</div>;
    case "list":
      return <div class="field">{label}<textarea {...common} rows={2} placeholder="one a line" value={Array.isArray(value) ? value.join("\n") : ""} onInput={(event) => onChange(lines(event.currentTarget.value, field.whole))} />{about}</div>;
    case "group":
      return <fieldset class="nested"><legend>{name}{!field.required && <Optional value={value} field={field} onChange={onChange} />}</legend>{about}{(field.required || value !== undefined) && <Group field={field} value={value} onChange={onChange} />}</fieldset>;
    case "variants":
      return <Variants name={name} field={field} value={value} onChange={onChange} />;
    case "json":
      return <Json name={name} id={id} field={field} value={value} onChange={onChange} />;
  }
}

function lines(text: string, whole: boolean | null): unknown {
  if (text === "") return undefined;
  const all = text.split("\n");
  return whole === null ? all : all.filter((one) => one.trim() !== "").map(Number);
}

function Optional({ value, field, onChange }: { value: unknown; field: Field; onChange: Change }) {
  return <label class="check inline"><input type="checkbox" checked={value !== undefined} onChange={(event) => onChange(event.currentTarget.checked ? preset({ ...field, required: true }) : undefined)} />give it</label>;
}

function Variants({ name, field, value, onChange }: { name: string; field: Extract<Field, { kind: "variants" }>; value: unknown; onChange: Change }) {
  const id = useId();
  const [at, set] = useState(field.required ? 0 : -1);
  const chosen = field.variants[at];
  return (
    <fieldset class="nested">
      <legend>{name}{field.required && <span class="req" title="required"> *</span>}</legend>
      {field.about && <p class="hint">{field.about}</p>}
      <label class="vh" for={id}>{name}: which</label>
      <select id={id} value={String(at)} onChange={(event) => { const next = Number(event.currentTarget.value); set(next); const one = field.variants[next]; onChange(one ? preset({ ...one.field, required: true }) : undefined); }}>
        {!field.required && <option value="-1">not said</option>}
        {field.variants.map((one, index) => <option key={one.label} value={String(index)}>{one.label}</option>)}
      </select>
      {chosen && (chosen.field.kind === "group" ? <><p class="hint">{chosen.field.about}</p><Group key={at} field={{ ...chosen.field, fields: chosen.field.fields.filter(([, one]) => one.kind !== "const") }} value={value} onChange={onChange} /></> : <One key={at} name={chosen.label} field={chosen.field} value={value} onChange={onChange} />)}
    </fieldset>
  );
}

function Json({ name, id, field, value, onChange }: { name: string; id: string; field: Field; value: unknown; onChange: Change }) {
  const [text, set] = useState(value === undefined ? "" : JSON.stringify(value, null, 2));
  const [fault, tell] = useState("");
  return (
    <div class="field">
      <label for={id}>{name}{field.required && <span class="req" title="required"> *</span>} <span class="mute small">JSON</span></label>
      <textarea
        id={id} rows={3} class="mono" value={text} aria-invalid={fault !== ""}
        onInput={(event) => {
          const next = event.currentTarget.value;
          let now = "";
          try {
            onChange(next.trim() === "" ? undefined : JSON.parse(next));
          } catch (error) {
            now = error instanceof Error ? error.message : "not JSON";
          }
          set(next);
          tell(now);
          // The form is not sent with it: the value is still that of the last text without a fault.
          event.currentTarget.setCustomValidity(now);
        }}
      />
      {fault && <p class="hint warntext" role="alert">{fault}</p>}
      {field.about && <p class="hint">{field.about}</p>}
    </div>
  );
}
