// Figures as people read them; what is not known stays unknown.
import { expect, test } from "vitest";
import { ago, bytes, ceiling, dollars, inline, percent, share, span } from "../src/lib/format.ts";
import { decodeToken, named, recordHref, title } from "../src/lib/key.ts";

test("what is not known is never a nought", () => {
  for (const read of [bytes, percent, span, dollars]) expect(read(undefined)).toBeUndefined();
  expect(share(undefined, 10)).toBeUndefined();
  expect(share(5, undefined)).toBeUndefined();
  expect(share(5, 0)).toBeUndefined();
  expect(share(0, 10)).toBe(0);
  expect(inline(null)).toBe("—");
});

test("figures", () => {
  expect([0, 1023, 1024, 8589934592, 100931731456, 1.5e15].map(bytes)).toEqual(["0 B", "1023 B", "1 KiB", "8 GiB", "94 GiB", "1.33 PiB"]);
  expect([0, 0.004, 0.5, 1].map(percent)).toEqual(["0 %", "<1 %", "50 %", "100 %"]);
  expect([0, 0.0001, 1.5].map(dollars)).toEqual(["$0.00", "< $0.01", "$1.50"]);
  expect([500, 89_000, 120_000, 7_200_000, 3 * 86_400_000].map(span)).toEqual(["1 s", "89 s", "2 min", "2 h", "3 d"]);
  expect(ago(1000, 61_000)).toBe("60 s ago");
  expect(ago(61_000, 1000)).toBe("in 60 s");
  expect(ago("no time", 0)).toBe("at an unknown time");
  expect([0, 0.3, 7, 21, 940].map(ceiling)).toEqual([1, 0.5, 10, 25, 1000]);
});

test("keys", () => {
  expect(decodeToken("my=20app=2Ev2")).toBe("my app.v2");
  expect(decodeToken("=_")).toBe("");
  expect(decodeToken("100=25")).toBe("100%");
  expect(decodeToken("=C3")).toBe("=C3");
  expect(title("storage.home.pve1.local-lvm")).toBe("storage local-lvm on pve1");
  expect(named("vm.home.100", { name: "<b>x</b>" })).toBe("VM 100 (<b>x</b>)");
  expect(recordHref("vm.home.100")).toBe("#/guest/vm.home.100");
  expect(recordHref("alert.scan.a=2Fb")).toBe("#/record/alert.scan.a%3D2Fb");
});
