// Line icons of one weight. They repeat what a word beside them says, so readers of the page aloud skip them.

const PATHS: Record<string, string> = {
  overview: "M3 11 12 4l9 7M6 9.5V20h12V9.5M10 20v-5h4v5",
  graph: "M6 6h4v4H6zM15 3h4v4h-4zM15 14h4v4h-4zM10 7.5l5-2M10 9l5 6.5",
  plans: "M8 6h12M8 12h12M8 18h7M3.5 6l1 1L6.5 5M3.5 12l1 1 2-2M3.5 18l1 1 2-2",
  ai: "M5 5h14v10H12l-4 4v-4H5zM9 9h6M9 12h3",
  audit: "M6 3h9l4 4v14H6zM14 3v5h5M9 12h7M9 16h7",
  identities: "M12 11a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM5 20c.6-4 3.4-6 7-6s6.400 2 7 6",
  mesh: "M12 8a2 2 0 1 0 0-4 2 2 0 0 0 0 4zM5 20a2 2 0 1 0 0-4 2 2 0 0 0 0 4zM19 20a2 2 0 1 0 0-4 2 2 0 0 0 0 4zM11 8l-5 8M13 8l5 8M7 18h10",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 3v2M12 19v2M3 12h2M19 12h2M5.600 5.600l1.400 1.400M17 17l1.400 1.400M5.600 18.400 7 17M17 7l1.400-1.400",
  moon: "M20 14.500A8 8 0 0 1 9.500 4 8 8 0 1 0 20 14.500z",
  system: "M4 5h16v11H4zM9 20h6M12 16v4",
  close: "M6 6l12 12M18 6 6 18",
  back: "M14 6l-6 6 6 6",
  out: "M14 4h5v16h-5M4 12h10M10 8l4 4-4 4",
  lock: "M7 11V8a5 5 0 0 1 10 0v3M5.500 11h13v9h-13z",
};

export function Icon({ name }: { name: string }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" width="18" height="18" aria-hidden="true" focusable="false">
      <path d={PATHS[name] ?? ""} fill="none" stroke="currentColor" stroke-width="1.7" stroke-linecap="round" stroke-linejoin="round" />
    </svg>
  );
}
