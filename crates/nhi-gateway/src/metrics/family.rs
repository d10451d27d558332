//! What `/metrics` can show: one table, so that nothing is shown that is not described, and what is described can be
//! checked. It holds no number.

/// How a family's numbers move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Up and down.
    Gauge,
    /// Up only, or anew from nothing.
    Counter,
    /// A distribution.
    Histogram,
}

impl Kind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
        }
    }
}

/// Who may see a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// About the gateway itself: whoever reaches it.
    Own,
    /// Facts of the lab: identities that may read the state.
    Lab,
}

macro_rules! families {
    ($($id:ident: $scope:ident $kind:ident $name:literal, $help:literal;)+) => {
        /// A family of numbers under one name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Family { $($id,)+ }

        impl Family {
            pub(super) const ALL: &[Self] = &[$(Self::$id,)+];

            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$id => $name,)+ }
            }

            pub(super) const fn help(self) -> &'static str {
                match self { $(Self::$id => $help,)+ }
            }

            pub(super) const fn kind(self) -> Kind {
                match self { $(Self::$id => Kind::$kind,)+ }
            }

            pub(super) const fn scope(self) -> Scope {
                match self { $(Self::$id => Scope::$scope,)+ }
            }
        }
    };
}

families! {
    // The gateway.
    Build: Own Gauge "nhi_build_info", "1, with the version of the program.";
    Started: Own Gauge "nhi_gateway_start_time_seconds", "When the gateway started, Unix time.";
    Answers: Own Counter "nhi_gateway_requests_total", "Answers by class of status.";
    Refused: Own Counter "nhi_gateway_refused_total", "Requests refused by their head: a foreign Host, Origin or form.";
    Durations: Own Histogram "nhi_gateway_request_duration_seconds", "Time to the head of an answer, by path.";
    Connections: Own Gauge "nhi_gateway_connections", "Connections to the mesh kept for callers.";
    Linked: Own Gauge "nhi_gateway_linked", "Whether the gateway is connected to the mesh.";
    // The mesh as the gateway sees it.
    Instances: Lab Gauge "nhi_service_instances", "Instances of a service that answer to discovery.";
    Endpoints: Lab Gauge "nhi_service_endpoints", "Endpoints a service offers.";
    CatalogProblems: Lab Gauge "nhi_catalog_problems", "What discovery left out or doubts.";
    Listeners: Own Gauge "nhi_events_listeners", "Readers of /events.";
    Asked: Lab Gauge "nhi_metrics_source_up", "Whether a service answered this scrape. What one did not answer is missing, not old.";
    Unreadable: Lab Gauge "nhi_metrics_unreadable_records", "Records whose shape is not known here.";
    Dropped: Lab Gauge "nhi_metrics_dropped_series", "Series beyond the bound of a family, left out of this scrape.";
    // The lab.
    Revision: Lab Gauge "nhi_state_revision", "Revision of the state.";
    Records: Lab Gauge "nhi_state_records", "Records by section.";
    SourceAge: Lab Gauge "nhi_source_age_seconds", "Seconds since a source was last seen whole.";
    SourceComplete: Lab Gauge "nhi_source_complete", "Whether the last look at a source saw everything.";
    SourcePass: Lab Gauge "nhi_source_pass_seconds", "How long the last full look at a source took.";
    Nodes: Lab Gauge "nhi_nodes", "Nodes by status; stale when the scanner does not see them.";
    NodeUp: Lab Gauge "nhi_node_up", "Whether a node answers; missing while that is not known.";
    NodeCpu: Lab Gauge "nhi_node_cpu_ratio", "Load of a node's processors, 0 to 1.";
    NodeMemoryUsed: Lab Gauge "nhi_node_memory_used_bytes", "Memory in use on a node.";
    NodeMemory: Lab Gauge "nhi_node_memory_bytes", "Memory of a node.";
    NodeDiskUsed: Lab Gauge "nhi_node_disk_used_bytes", "Root file system of a node, in use.";
    NodeDisk: Lab Gauge "nhi_node_disk_bytes", "Root file system of a node.";
    NodeUptime: Lab Gauge "nhi_node_uptime_seconds", "Seconds since a node started.";
    Guests: Lab Gauge "nhi_guests", "Guests by kind and status, templates left out; stale when the scanner does not see them.";
    GuestRunning: Lab Gauge "nhi_guest_running", "Whether a guest runs; missing while that is not known. onboot: whether it is meant to start with its node.";
    GuestCpu: Lab Gauge "nhi_guest_cpu_ratio", "Load of a guest's processors, 0 to 1.";
    GuestMemoryUsed: Lab Gauge "nhi_guest_memory_used_bytes", "Memory a guest uses.";
    GuestMemory: Lab Gauge "nhi_guest_memory_bytes", "Memory a guest may use.";
    StorageActive: Lab Gauge "nhi_storage_active", "Whether a storage is reachable from a node.";
    StorageUsed: Lab Gauge "nhi_storage_used_bytes", "Storage in use.";
    StorageSize: Lab Gauge "nhi_storage_bytes", "Size of a storage.";
    Alerts: Lab Gauge "nhi_alerts", "Active problems by severity.";
    Alert: Lab Gauge "nhi_alert", "1 for each active problem.";
    // Acting.
    Plans: Lab Gauge "nhi_plans_open", "Plans that wait or are under way, at most 500: approval, open, or how far the run is.";
    PlansHuman: Lab Gauge "nhi_plans_needing_human", "Open plans whose run has an unknown outcome.";
    Runs: Lab Gauge "nhi_runs_open", "Runs under way.";
    Frozen: Lab Gauge "nhi_frozen", "Whether acting is frozen.";
    Holds: Lab Gauge "nhi_holds", "Claims of identities on guests.";
    // GPUs, under the names of Neural-Home v3.
    GpuTemperature: Lab Gauge "gpu_temperature_celsius", "Temperature of a card.";
    GpuMemoryUsed: Lab Gauge "gpu_memory_used_bytes", "Memory of a card in use.";
    GpuMemory: Lab Gauge "gpu_memory_total_bytes", "Memory of a card.";
    GpuUtilization: Lab Gauge "gpu_utilization_percent", "Load of a card.";
    GpuPower: Lab Gauge "gpu_power_draw_watts", "Power a card draws.";
    GpuQueue: Lab Gauge "gpu_queue_length", "Requests that wait at a machine's relay.";
    GpuRunning: Lab Gauge "gpu_requests_running", "Requests a machine's relay works on.";
    GpuLight: Lab Gauge "gpu_semaphore_state", "0 red, 1 yellow, 2 green; missing while nothing is heard of the machine.";
    GpuFree: Lab Gauge "neural_home_gpu_status", "1 when a request may be sent to the machine's GPU now, else 0.";
    // AI, under the names of Neural-Home v3. Counters of the ledger start anew at midnight UTC.
    ApiRequests: Lab Counter "api_requests_total", "Requests by backend and how they ended: success, error, cancelled. Today, UTC.";
    ApiErrors: Lab Counter "api_errors_total", "Requests by backend that failed or were refused. Today, UTC.";
    ApiLatency: Lab Histogram "api_latency_seconds", "How long requests took to their end, by backend. Today, UTC.";
    ApiTokens: Lab Counter "api_tokens_total", "Tokens by backend, model and direction. Today, UTC.";
    ApiCost: Lab Counter "api_cost_dollars_total", "US dollars by backend and model. Today, UTC.";
    Routing: Lab Counter "routing_decision", "Requests by what they were read as and the backend that got them. Today, UTC.";
    QuotaRemaining: Lab Gauge "api_quota_remaining", "What is left of a backend's quota.";
    QuotaLimit: Lab Gauge "api_quota_limit", "What a backend's quota allows.";
    RateRemaining: Lab Gauge "neural_home_rate_limit_remaining", "The same as api_quota_remaining, under its older name.";
    Jobs: Lab Gauge "nhi_ai_jobs", "AI requests that can wait, by state.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_prometheus_names_and_each_is_there_once() {
        let names: BTreeSet<&str> = Family::ALL.iter().map(|family| family.name()).collect();
        assert_eq!(names.len(), Family::ALL.len());
        for family in Family::ALL {
            let (name, kind) = (family.name(), family.kind());
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{name}"
            );
            let is_counted = name.ends_with("_total") || *family == Family::Routing;
            assert_eq!(kind == Kind::Counter, is_counted, "{name}");
            assert!(family.help().ends_with('.') && !family.help().contains(['\n', '\\']), "{name}");
        }
    }
}
