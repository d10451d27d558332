// The mesh's answers as far as the pages read them. The shapes are nhi-model's; what is optional there is optional here.

export type Stale = { reason: string; since: string };
export type Live = { v: number; at: string; valid_until: string; record: Json };
export type Json = { [name: string]: unknown };

export type StateRecord = {
  revision: number;
  at: string;
  op?: string;
  stale?: Stale;
  record: Json;
  live?: Live;
};
export type Coverage = { kind: "complete" | "partial" | "unseen"; reason?: string };
export type SourceAge = { coverage: Coverage; last_success?: string; age_s?: number; stale?: string };
export type StateGot = {
  revision: number;
  as_of: string;
  sources: Record<string, SourceAge>;
  records: Record<string, StateRecord>;
  unknown?: string[];
  next?: string;
  stale?: Stale;
};
export type At = { revision: number } | { time: string };
export type FieldDiff = { before: unknown; after: unknown };
export type RecordDiff =
  | { kind: "added"; record: Json }
  | { kind: "removed"; record: Json }
  | { kind: "changed"; fields: Record<string, FieldDiff> };
export type StateDiffed = {
  from: number;
  to: number;
  changes: Record<string, RecordDiff>;
  unknown?: string[];
  truncated: boolean;
};
export type Version = { key: string; revision: number; at: string; value?: StateRecord };
export type StateHistoried = { versions: Version[]; truncated: boolean };

export type Address = { interface: string; address: string; prefix?: number; mac?: string };
export type Guest = {
  kind: "qemu" | "lxc";
  cluster: string;
  vmid: number;
  name: string;
  node: string;
  status: string;
  template: boolean;
  tags?: string[];
  pool?: string;
  lock?: string;
  protection?: boolean;
  onboot?: boolean;
  ha?: { state: string; group?: string };
  cpus?: number;
  memory_bytes?: number;
  disk_bytes?: number;
  os?: string;
  nics?: Record<string, { bridge?: string; mac?: string; vlan?: number; ip_config?: string }>;
  volumes?: Record<string, string>;
  addresses?: Address[];
  address_source?: { kind: string; privilege?: string };
  snapshots?: number;
  backups?: { kind: string; at?: string; storage?: string };
  notes?: string;
};
export type Node = {
  cluster: string;
  node: string;
  status: string;
  address?: string;
  cpus?: number;
  memory_bytes?: number;
  disk_bytes?: number;
  pve_version?: string;
  kernel?: string;
};
export type Gauges = { cpu?: number; mem?: number; disk?: number; uptime?: number; netin?: number; netout?: number };
export type Storage = {
  cluster: string;
  node: string;
  storage: string;
  kind?: string;
  content?: string[];
  shared: boolean;
  active?: boolean;
  enabled?: boolean;
};
export type Alert = { severity: "info" | "warning" | "critical"; summary: string; hint: string; since: string; about?: string };
export type GraphService = {
  depends_on?: string[];
  required_by?: string[];
  criticality?: "low" | "medium" | "high" | "critical";
  can_restart_without_approval?: boolean;
  restart_safe_hours?: number[];
};
export type Graph = { services: Record<string, GraphService>; warnings?: string[] };

export type Light = "green" | "yellow" | "red";
export type GpuGauges = {
  light: Light;
  reason: string;
  text: string;
  since: string;
  cards?: {
    id: string;
    utilization_percent?: number;
    vram_used_bytes?: number;
    vram_ours_bytes?: number;
    temperature_c?: number;
    power_w?: number;
  }[];
  idle_s?: number;
  running?: number;
  waiting?: number;
  loaded?: string[];
};
export type Gpu = {
  host: string;
  cards?: { id: string; name: string; vram_bytes: number }[];
  driver?: string;
  lock?: { by?: string; until: string };
};
export type GpuSeen = { gpu: Gpu; available: boolean; text: string; gauges?: GpuGauges; read_at?: string };

export type Fact = { is: string; guest?: string; [field: string]: unknown };
export type Step = {
  what: string;
  operation: string;
  guest: string;
  node: string;
  call: { method: string; path: string; params?: Record<string, string> };
  before: Fact[];
  after: Fact[];
  repeat: string;
  compensation?: Step;
};
export type Plan = {
  id: string;
  cluster: string;
  intent: Json;
  by: string;
  reason?: string;
  made_at: string;
  expires_at: string;
  revision: number;
  reads: Record<string, number>;
  targets: { guest: string; kind: string; vmid: number; name: string; node: string; operations: string[] }[];
  requires: Fact[];
  steps: Step[];
  expects: Fact[];
  effects: string[];
  config_changes: { guest: string; field: string; before?: string; after?: string }[];
  impacts: { name: string; guest?: string; cause: string; how: string }[];
  risk: string;
  undo: { intents: Json[]; complete: boolean; cost: string };
  on_failure: string;
  undo_unless_confirmed_minutes?: number;
  digest: string;
};
export type PlanState = {
  is: "open" | "applied" | "rejected" | "cancelled" | "void";
  run?: string;
  by?: string;
  reason?: string;
  changes?: string[];
  at?: string;
};
export type PlanRecord = {
  plan: Plan;
  gate: { verdict: string; reasons: string[]; approvals: number; not_before?: string; rehearse: boolean };
  state: PlanState;
  approvals: { by: string; digest: string; at: string; expires_at: string }[];
  rehearsal?: { at: string; as_expected: boolean; changes: string[]; differences: string[] };
};
export type RunState = {
  is: string;
  reason?: string;
  text?: string;
  revision?: number;
  by?: string;
  not_before?: string;
};
export type Mark = { mark: string; [field: string]: unknown };
export type Run = {
  id: string;
  plan: string;
  digest: string;
  by: string;
  at: string;
  state: RunState;
  journal?: { at: string; step: number; leg: "forward" | "back"; mark: Mark }[];
  dead_man?: { due: string; state: { is: string; by?: string; text?: string; plan?: string } };
  ended_at?: string;
  acknowledged?: { by: string; at: string };
  unseen?: Fact[];
};
export type RunFrame = { run: Run; said: string; guests?: { guest: string; name: string; status: string; addresses?: string[] }[] };
export type PlanRow = {
  plan: string;
  by: string;
  made_at: string;
  expires_at: string;
  summary: string;
  risk: string;
  verdict: string;
  approvals: number;
  approvals_needed: number;
  state: PlanState;
  run?: RunState;
  needs_human: boolean;
};
export type Freeze = { by: string; reason: string; since: string };
export type ActListed = {
  plans: PlanRow[];
  more: boolean;
  frozen?: Freeze;
  holds?: { guest: string; hold: { by: string; reason: string; until: string } }[];
};

export type Model = {
  name: string;
  context_tokens?: number;
  tools?: boolean;
  vision?: boolean;
  embeds?: boolean;
  billions?: number;
  price?: { input: number; output: number };
  elsewhere?: boolean;
};
export type Provider = { kind: string; url: string; home: boolean; gpu?: string; models?: Model[] };
export type ModelRow = { id: string; providers: string[]; alias: boolean; available: boolean; text: string; model?: Model };
export type Routed = {
  order: { provider: string; model: string; reason: string }[];
  lost: { provider: string; model: string; why: string; text: string; until?: string }[];
  read_as: string[];
  again_at?: string;
};
export type UsageRow = {
  of: string;
  requests: number;
  failed: number;
  input_tokens: number;
  output_tokens: number;
  cost: number;
  first_token_ms?: number;
  cancelled?: number;
};
export type AiUsed = {
  rows: UsageRow[];
  quotas: { provider: string; what: string; used: number; limit: number; resets_at: string }[];
};
export type Job = {
  job: string;
  by: string;
  at: string;
  priority: string;
  asked: string;
  state: { is: string; text?: string; attempt?: number; until?: string };
};
export type Origin = {
  provider: string;
  model: string;
  reason: string;
  failed?: { provider: string; model: string; reason: string }[];
  seams?: { at: number; provider: string; model: string }[];
};

export type AuditEntry = {
  at: string;
  agent: string;
  kind: string;
  actor?: string;
  details: Json;
  prev: string;
  hash: string;
};
export type AuditRow = { sequence: number; entry: AuditEntry };
export type AuditListed = { entries: AuditRow[]; more: boolean; next?: number };
export type AuditVerified = { entries: number; intact: boolean; fault?: string; head: string };
export type Identity = { name: string; role?: string; public_key: string; grants: string[]; added: string };

export type Schema = { [word: string]: unknown };
export type Endpoint = {
  name: string;
  /** Where it is called over HTTP; absent when it is not called in the mesh's way. */
  path?: string | null;
  subject: string;
  effect: "read" | "write" | "danger";
  description: string;
  request_schema?: Schema | null;
  response_schema?: Schema | null;
  stream: boolean;
};
export type Offered = {
  name: string;
  version: string;
  description: string;
  instances: string[];
  endpoints: Endpoint[];
  problems?: string[];
  stats?: Record<string, { requests: number; errors: number; processing_ms_avg?: number }>;
};
export type Mesh = { services: Offered[]; problems?: string[] };
export type SessionInfo = { name: string; role?: string; expires_at: string; csrf: string };
