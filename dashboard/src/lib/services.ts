// Which guest carries which service of the dependency graph: the one of its name, in any case, as the mesh has it. What
// `[services]` of policy.toml says otherwise is not known here.

/** The guests that carry each service. A service that none of them carries has no row. */
export function carriers<G extends { name?: string }>(services: Iterable<string>, guests: Iterable<G>): Map<string, G[]> {
  const named = new Map<string, G[]>();
  for (const guest of guests) {
    const name = guest.name?.toLowerCase();
    if (name) named.set(name, [...(named.get(name) ?? []), guest]);
  }
  const found = new Map<string, G[]>();
  for (const service of services) {
    const all = named.get(service.toLowerCase());
    if (all) found.set(service, all);
  }
  return found;
}
