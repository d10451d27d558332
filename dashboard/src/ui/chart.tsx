// Bars over days, drawn as SVG, with the same figures as a table for who does not see them. A day without a row is a gap
// and is said to be one: nothing noted is not the same as a nought that was counted.

import { useState } from "preact/hooks";
import { ceiling } from "../lib/format.ts";
import { Scroll } from "./base.tsx";

export type Bar = { label: string; value: number | undefined; text: string; title: string };

const W = 640;
const H = 150;
const LEFT = 44;
const BOTTOM = 22;
const TOP = 8;

export function Bars({ title, bars, axis }: { title: string; bars: Bar[]; axis: (value: number) => string }) {
  const [table, set] = useState(false);
  const top = ceiling(Math.max(0, ...bars.map((bar) => bar.value ?? 0)));
  const slot = (W - LEFT) / Math.max(1, bars.length);
  const height = H - BOTTOM - TOP;
  const every = Math.ceil(bars.length / 8);
  return (
    <figure class="chart">
      <figcaption class="row"><span>{title}</span><button type="button" class="btn quiet right small" aria-pressed={table} onClick={() => set(!table)}>{table ? "as a chart" : "as a table"}</button></figcaption>
      {table ? (
        <Scroll label={title}>
          <table class="data"><tbody>{bars.map((bar) => <tr key={bar.label}><th scope="row">{bar.label}</th><td class="num" title={bar.title}>{bar.value === undefined ? "nothing noted" : bar.text}</td></tr>)}</tbody></table>
        </Scroll>
      ) : (
        <svg viewBox={`0 0 ${W} ${H}`} role="img" aria-label={`${title}: ${bars.filter((bar) => bar.value !== undefined).map((bar) => `${bar.label} ${bar.text}`).join(", ") || "nothing noted"}`}>
          {[0, 0.5, 1].map((part) => (
            <g key={part}>
              <line class="grid" x1={LEFT} x2={W} y1={TOP + height * (1 - part)} y2={TOP + height * (1 - part)} />
              <text class="tick" x={LEFT - 6} y={TOP + height * (1 - part) + 4} text-anchor="end">{axis(top * part)}</text>
            </g>
          ))}
          {bars.map((bar, at) => {
            const tall = ((bar.value ?? 0) / top) * height;
            const x = LEFT + at * slot + slot * 0.18;
            return (
              <g key={bar.label}>
                <title>{bar.title}</title>
                <rect class="hit" x={LEFT + at * slot} y={TOP} width={slot} height={height} />
                {bar.value !== undefined && <rect class="fill" x={x} y={TOP + height - Math.max(tall, bar.value > 0 ? 1.5 : 0)} width={slot * 0.64} height={Math.max(tall, bar.value > 0 ? 1.5 : 0)} rx="2" />}
                {at % every === 0 && <text class="tick" x={LEFT + at * slot + slot / 2} y={H - 6} text-anchor="middle">{bar.label}</text>}
              </g>
            );
          })}
        </svg>
      )}
    </figure>
  );
}
