// Figures and times as people read them. What is not known gives `undefined`, and is drawn as a dash by whoever shows it.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function bytes(value: number | undefined): string | undefined {
  if (value === undefined || !Number.isFinite(value)) return undefined;
  let unit = 0;
  let left = value;
  while (left >= 1024 && unit < UNITS.length - 1) {
    left /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || left >= 100 ? 0 : left >= 10 ? 1 : 2;
  return `${trim(left.toFixed(digits))} ${UNITS[unit]}`;
}

function trim(text: string): string {
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

export function percent(share: number | undefined): string | undefined {
  if (share === undefined || !Number.isFinite(share)) return undefined;
  const value = share * 100;
  return value > 0 && value < 1 ? "<1 %" : `${Math.round(value)} %`;
}

/** A share, when both are known and the whole is something. */
export function share(part: number | undefined, whole: number | undefined): number | undefined {
  return part === undefined || !whole ? undefined : part / whole;
}

export function count(value: number | undefined): string | undefined {
  return value === undefined ? undefined : value.toLocaleString("en-US");
}

export function dollars(value: number | undefined): string | undefined {
  if (value === undefined) return undefined;
  if (value > 0 && value < 0.01) return "< $0.01";
  return `$${value.toFixed(2)}`;
}

/** `4 s`, `12 min`, `3 h`, `9 d` */
export function span(ms: number | undefined): string | undefined {
  if (ms === undefined || Number.isNaN(ms)) return undefined;
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 90) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.round(minutes / 60);
  return hours < 48 ? `${hours} h` : `${Math.round(hours / 24)} d`;
}

/** `3 min ago`, `in 3 min`, `just now` */
export function ago(at: string | number, now: number): string {
  const ms = now - moment(at);
  if (Number.isNaN(ms)) return "at an unknown time";
  if (Math.abs(ms) < 2000) return "just now";
  return ms > 0 ? `${span(ms)} ago` : `in ${span(-ms)}`;
}

export function moment(at: string | number): number {
  return typeof at === "number" ? at : Date.parse(at);
}

const two = (value: number): string => String(value).padStart(2, "0");

/** `2026-01-31 14:00:05`, in the reader's own time zone. */
export function stamp(at: string | number | undefined): string | undefined {
  if (at === undefined) return undefined;
  const date = new Date(at);
  if (Number.isNaN(date.getTime())) return undefined;
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clock(at)}`;
}

export function clock(at: string | number): string {
  const date = new Date(at);
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** As a `datetime-local` field wants it. */
export function localInput(at: number): string {
  return stamp(at)?.replace(" ", "T") ?? "";
}

/** A value of a record in one line. */
export function inline(value: unknown): string {
  if (value === null || value === undefined) return "—";
  if (typeof value === "string") return value === "" ? "“”" : value;
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  if (Array.isArray(value) && value.every((one) => typeof one !== "object")) return value.length ? value.join(", ") : "none";
  return JSON.stringify(value);
}

export function plural(n: number, one: string, many = `${one}s`): string {
  return `${n.toLocaleString("en-US")} ${n === 1 ? one : many}`;
}

/** A round figure at or above the largest. */
export function ceiling(most: number): number {
  if (!(most > 0)) return 1;
  const unit = 10 ** Math.floor(Math.log10(most));
  return ([1, 2, 2.5, 5, 10].find((one) => one * unit >= most) ?? 10) * unit;
}
