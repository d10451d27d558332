// The small pieces every page is made of: panels, figures that name their record, badges, bars, empty states, dialogs.

import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef } from "preact/hooks";
import type { Refusal } from "../api/client.ts";
import type { Live, StateRecord } from "../api/types.ts";
import { ago, clock, moment, percent, stamp } from "../lib/format.ts";
import { recordHref } from "../lib/key.ts";
import { second, tick } from "../store/clock.ts";
import { link } from "../store/lab.ts";
import { keep } from "../store/route.ts";
import { Icon } from "./icons.tsx";

export type Tone = "ok" | "warn" | "bad" | "info" | "mute";

export function Panel({ title, side, children, id, flush }: { title: string; side?: ComponentChildren; children: ComponentChildren; id?: string; flush?: boolean }) {
  const name = useId();
  return (
    <section class={flush ? "panel flush" : "panel"} aria-labelledby={name} id={id}>
      <header>
        <h2 id={name}>{title}</h2>
        {side && <div class="side">{side}</div>}
      </header>
      <div class="body">{children}</div>
    </section>
  );
}

export function Badge({ tone = "mute", children, title }: { tone?: Tone; children: ComponentChildren; title?: string | undefined }) {
  return (
    <span class="badge" data-tone={tone} title={title}>
      {children}
    </span>
  );
}

export function Dot({ tone }: { tone: Tone }) {
  return <span class="dot" data-tone={tone} aria-hidden="true" />;
}

const STATUS: Record<string, Tone> = {
  running: "ok", online: "ok", done: "ok", green: "ok", complete: "ok", automatic: "ok", low: "ok",
  paused: "warn", suspended: "warn", yellow: "warn", partial: "warn", waiting: "warn", compensating: "warn", compensated: "warn",
  verifying: "info", open: "info", confirm: "info", applied: "info", approval: "warn", medium: "info", high: "warn",
  offline: "bad", red: "bad", failed: "bad", "needs-human": "bad", void: "bad", dead: "bad", unseen: "bad", destructive: "bad", critical: "bad", danger: "bad", error: "bad", rejected: "bad",
  warning: "warn", info: "info", write: "info", stopped: "mute", unknown: "mute", cancelled: "mute", read: "mute",
};

export function toneOf(word: string): Tone {
  return STATUS[word] ?? "mute";
}

/** A status: its colour never says more than its word. */
export function Status({ word, stale }: { word: string; stale?: string | undefined }) {
  return (
    <span class={stale ? "status stale" : "status"} title={stale}>
      <Dot tone={stale ? "mute" : toneOf(word)} />
      {word}
      {stale && <span class="aged"> (stale)</span>}
    </span>
  );
}

/** Where a figure comes from, in a line: `vm.home.100 · revision 34 · 2026-01-31 14:00:00`. */
export function source(key: string, record: Pick<StateRecord, "revision" | "at" | "stale"> | undefined): string {
  if (!record) return `${key}: there is no such record`;
  const base = `${key} · revision ${record.revision} · ${stamp(record.at) ?? "at an unknown time"}`;
  return record.stale ? `${base} · stale since ${stamp(record.stale.since)}: ${record.stale.reason}` : base;
}

export function gaugeSource(key: string, live: Live | undefined): string {
  if (!live) return `${key}: no gauge that still counts; gauges are not kept`;
  return `${key} · gauge read ${stamp(live.at)} · counts until ${clock(live.valid_until)}`;
}

export function Unknown({ why }: { why: string }) {
  return (
    <span class="unknown" title={why}>
      <span aria-hidden="true">—</span>
      <span class="vh">unknown</span>
    </span>
  );
}

/** A figure with the record it was read from. What is not known is a dash, never a nought. */
export function Fact({ of, record, children, link = true }: { of: string; record: Pick<StateRecord, "revision" | "at" | "stale"> | undefined; children: string | undefined; link?: boolean }) {
  const from = source(of, record);
  if (children === undefined) return <Unknown why={`not known: ${from}`} />;
  const kind = record?.stale ? "fact stale" : "fact";
  if (!link) return <span class={kind} title={from} data-key={of} data-revision={record?.revision}>{children}</span>;
  return (
    <a class={kind} href={keep(recordHref(of).replace("#/guest/", "#/record/"))} title={from} data-key={of} data-revision={record?.revision} tabIndex={-1}>
      {children}
    </a>
  );
}

/** A gauge: it counts until its time is over, and is a dash after that. */
export function Gauge({ of, live, children }: { of: string; live: Live | undefined; children: string | undefined }) {
  const from = gaugeSource(of, live);
  if (children === undefined || !counts(live)) return <Unknown why={`not known: ${from}`} />;
  return <span class="fact" title={from} data-key={of} data-read={live?.at}>{children}</span>;
}

/** Whether a gauge still says something. */
export function counts(live: Live | undefined): live is Live {
  return live !== undefined && moment(live.valid_until) > tick.value;
}

/** A bar of a share with its word; without a share an empty bar that says so. */
export function Bar({ share, label, title, tone }: { share: number | undefined; label: string; title: string; tone?: Tone }) {
  const known = share !== undefined && Number.isFinite(share);
  const width = known ? Math.max(0, Math.min(1, share)) * 100 : 0;
  const mood = tone ?? (width >= 95 ? "bad" : width >= 80 ? "warn" : "ok");
  return (
    <span class="bar" title={title} data-known={known}>
      <svg viewBox="0 0 100 6" preserveAspectRatio="none" role="img" aria-label={known ? `${label} ${percent(share)}` : `${label} unknown`}>
        <rect class="track" width="100" height="6" />
        {known && <rect class="fill" data-tone={mood} width={Math.max(width, width > 0 ? 1.5 : 0)} height="6" />}
      </svg>
    </span>
  );
}

/** An age that grows by itself. */
export function Ago({ at, fine }: { at: string | number; fine?: boolean }) {
  const now = fine ? second.value : tick.value;
  return <time class="ago" dateTime={new Date(moment(at) || 0).toISOString()} title={stamp(at)}>{ago(at, now)}</time>;
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <p class="lead">{title}</p>
      {children && <p>{children}</p>}
    </div>
  );
}

export function Loading({ what }: { what: string }) {
  if (link.value.is === "lost") return <p class="note" data-tone="warn" role="status">{what} could not be read: the gateway does not answer.</p>;
  return <p class="loading" role="status">reading {what} …</p>;
}

/** A refusal as the mesh said it: sentence, hint, code, and what else it names. */
export function Refused({ why, title }: { why: Refusal | undefined; title?: string }) {
  if (!why) return null;
  const details = Object.entries(why.details ?? {});
  return (
    <div class="note" data-tone="bad" role="alert">
      <p><strong>{title ?? "Refused"}:</strong> {why.message}</p>
      {why.hint && <p>{why.hint}</p>}
      <p class="small">
        code <code>{why.code}</code>
        {details.map(([name, value]) => <span key={name}> · {name} <code>{typeof value === "string" ? value : JSON.stringify(value)}</code></span>)}
      </p>
    </div>
  );
}

export function Dialog({ title, open, onClose, children, wide }: { title: string; open: boolean; onClose: () => void; children: ComponentChildren; wide?: boolean }) {
  const ref = useRef<HTMLDialogElement>(null);
  const name = useId();
  useEffect(() => {
    const dialog = ref.current;
    if (!dialog || !open) return undefined;
    // A modal dialog of the browser itself: what is behind it can be neither reached nor read.
    const back = document.activeElement;
    if (!dialog.open) dialog.showModal();
    return () => {
      dialog.close();
      if (back instanceof HTMLElement && back.isConnected) back.focus();
    };
  }, [open]);
  if (!open) return null;
  return (
    <dialog
      ref={ref}
      class={wide ? "dialog broad" : "dialog"}
      aria-labelledby={name}
      onCancel={(event) => {
        event.preventDefault();
        onClose();
      }}
    >
      <header>
        <h2 id={name}>{title}</h2>
        <button type="button" class="btn quiet square" onClick={onClose} aria-label="Close">
          <Icon name="close" />
        </button>
      </header>
      <div class="body">{children}</div>
    </dialog>
  );
}

export function Tabs<T extends string>({ label, options, value, onPick }: { label: string; options: [T, string][]; value: T; onPick: (value: T) => void }) {
  return (
    <div class="tabs" role="group" aria-label={label}>
      {options.map(([name, text]) => (
        <button key={name} type="button" aria-pressed={name === value} onClick={() => onPick(name)}>
          {text}
        </button>
      ))}
    </div>
  );
}

/** A wide table or drawing scrolls in itself, and can be scrolled by keyboard. */
export function Scroll({ label, children }: { label: string; children: ComponentChildren }) {
  return <div class="scroll" tabIndex={0} role="region" aria-label={label}>{children}</div>;
}

export function Field({ label, hint, children, name }: { label: string; hint?: string; children: ComponentChildren; name: string }) {
  return (
    <div class="field">
      <label for={name}>{label}</label>
      {children}
      {hint && <p class="hint" id={`${name}-hint`}>{hint}</p>}
    </div>
  );
}
