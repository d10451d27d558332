// Keys of records as the mesh writes them: dotted tokens, other characters as =XX.

export function decodeToken(text: string): string {
  if (text === "=_") return "";
  const plain = text.replace(/%/g, "%25").replace(/=([0-9A-F]{2})/g, "%$1");
  try {
    return decodeURIComponent(plain);
  } catch {
    return text;
  }
}

export function section(key: string): string {
  return key.split(".", 1)[0] ?? "";
}

export function tokens(key: string): string[] {
  return key.split(".").slice(1).map(decodeToken);
}

export function isGuest(key: string): boolean {
  return key.startsWith("vm.") || key.startsWith("lxc.");
}

/** Where a record is shown. */
export function recordHref(key: string): string {
  const page = isGuest(key) ? "guest" : key === "graph" ? "graph" : "record";
  return page === "graph" ? "#/graph" : `#/${page}/${encodeURIComponent(key)}`;
}

/** What people call it, without its record. */
export function title(key: string): string {
  const [first, ...rest] = [section(key), ...tokens(key)];
  switch (first) {
    case "vm":
      return `VM ${rest[1] ?? ""}`;
    case "lxc":
      return `container ${rest[1] ?? ""}`;
    case "node":
      return `node ${rest[1] ?? ""}`;
    case "storage":
      return `storage ${rest[2] ?? ""} on ${rest[1] ?? ""}`;
    case "graph":
      return "the dependency graph";
    default:
      return `${first} ${rest.join(" ")}`;
  }
}

/** The same with the name its record has. */
export function named(key: string, record: { [name: string]: unknown } | undefined): string {
  const name = record && isGuest(key) ? record["name"] : undefined;
  return typeof name === "string" && name ? `${title(key)} (${name})` : title(key);
}
