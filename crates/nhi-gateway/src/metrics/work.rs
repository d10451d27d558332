//! The numbers of acting, GPUs and AI requests, from what their services answer.

use super::{
    family::Family,
    lab::seconds,
    page::{Labels, Page, Spread},
};
use nhi_model::{
    act::ActListed,
    ai::{AiJobsListed, AiUsed, Intent, JobState, LATENCY_BOUNDS_MS, Latency, UsageRow},
    gpu::{GpuGot, Light},
};
use std::collections::BTreeMap;

/// Plans, runs, claims and the freeze.
pub(super) fn acting(listed: &ActListed) -> Page {
    let mut page = Page::default();
    let (mut plans, mut runs) =
        (BTreeMap::from([("approval", 0), ("open", 0)]), BTreeMap::from([("running", 0)]));
    for row in &listed.plans {
        let state = match &row.run {
            Some(run) => run.as_str(),
            None if row.approvals < row.approvals_needed => "approval",
            None => "open",
        };
        *plans.entry(state).or_default() += 1;
        if let Some(run) = row.run.as_ref().filter(|run| !run.is_over()) {
            *runs.entry(run.as_str()).or_default() += 1;
        }
    }
    for (state, count) in plans {
        page.set(Family::Plans, &[("state", state)], count);
    }
    for (state, count) in runs {
        page.set(Family::Runs, &[("state", state)], count);
    }
    page.set(Family::PlansHuman, &[], listed.plans.iter().filter(|row| row.needs_human).count());
    page.flag(Family::Frozen, &[], listed.frozen.is_some());
    page.set(Family::Holds, &[], listed.holds.len());
    page
}

/// The machines' GPUs.
pub(super) fn gpus(got: &GpuGot) -> Page {
    let mut page = Page::default();
    for (host, seen) in &got.gpus {
        let machine: Labels<'_> = &[("host", host)];
        page.flag(Family::GpuFree, machine, seen.available);
        for card in &seen.gpu.cards {
            let labels: Labels<'_> = &[("host", host), ("card", &card.id), ("name", &card.name)];
            page.set(Family::GpuMemory, labels, card.vram_bytes);
        }
        let Some(gauges) = &seen.gauges else { continue };
        let light = match gauges.light {
            Light::Red => 0,
            Light::Yellow => 1,
            Light::Green => 2,
        };
        page.set(Family::GpuLight, machine, light);
        page.set(Family::GpuQueue, machine, gauges.waiting);
        page.set(Family::GpuRunning, machine, gauges.running);
        for card in &gauges.cards {
            let labels: Labels<'_> = &[("host", host), ("card", &card.id)];
            page.known(Family::GpuTemperature, labels, card.temperature_c);
            page.known(Family::GpuMemoryUsed, labels, card.vram_used_bytes);
            page.known(Family::GpuUtilization, labels, card.utilization_percent);
            page.known(Family::GpuPower, labels, card.power_w);
        }
    }
    page
}

/// The sums of one backend over its models.
#[derive(Default)]
struct Backend<'a> {
    requests: u64,
    failed: u64,
    cancelled: u64,
    latency: Latency,
    tasks: BTreeMap<Intent, u64>,
    models: Vec<(&'a str, &'a UsageRow)>,
}

/// What today's requests came to, and what is left of quotas.
pub(super) fn usage(used: &AiUsed) -> Page {
    let mut page = Page::default();
    let mut backends: BTreeMap<&str, Backend<'_>> = BTreeMap::new();
    for row in &used.rows {
        let (provider, model) = row.of.split_once('/').unwrap_or((&row.of, ""));
        let backend = backends.entry(provider).or_default();
        backend.requests += row.requests;
        backend.failed += row.failed;
        backend.cancelled += row.cancelled;
        backend.latency.join(&row.latency);
        for (task, requests) in &row.tasks {
            *backend.tasks.entry(*task).or_default() += requests;
        }
        backend.models.push((model, row));
    }
    for (provider, backend) in &backends {
        show(&mut page, provider, backend);
    }
    for quota in &used.quotas {
        let left = quota.limit.saturating_sub(quota.used);
        let labels: Labels<'_> = &[("provider", &quota.provider), ("window", &quota.what)];
        page.set(Family::QuotaRemaining, labels, left);
        page.set(Family::QuotaLimit, labels, quota.limit);
        page.set(Family::RateRemaining, &[("provider", &quota.provider), ("type", &quota.what)], left);
    }
    page
}

fn show(page: &mut Page, provider: &str, backend: &Backend<'_>) {
    let well = backend.requests.saturating_sub(backend.failed).saturating_sub(backend.cancelled);
    for (status, count) in [("success", well), ("error", backend.failed), ("cancelled", backend.cancelled)] {
        page.set(Family::ApiRequests, &[("provider", provider), ("status", status)], count);
    }
    page.set(Family::ApiErrors, &[("provider", provider)], backend.failed);
    let bounds = LATENCY_BOUNDS_MS.map(seconds);
    let Latency { counts, count, sum_ms } = &backend.latency;
    let spread = Spread { bounds: &bounds, counts, count: *count, sum: seconds(*sum_ms) };
    page.spread(Family::ApiLatency, &[("provider", provider)], &spread);
    for (task, requests) in &backend.tasks {
        let task = match task {
            Intent::Coding => "coding",
            Intent::Simple => "simple",
        };
        page.set(Family::Routing, &[("task_type", task), ("provider", provider)], requests);
    }
    for (model, row) in &backend.models {
        for (direction, tokens) in [("input", row.input_tokens), ("output", row.output_tokens)] {
            let labels: Labels<'_> = &[("provider", provider), ("model", model), ("direction", direction)];
            page.set(Family::ApiTokens, labels, tokens);
        }
        page.set(Family::ApiCost, &[("provider", provider), ("model", model)], row.cost);
    }
}

/// Requests that can wait.
pub(super) fn jobs(listed: &AiJobsListed) -> Page {
    let mut page = Page::default();
    let mut states = BTreeMap::from([("waiting", 0), ("running", 0)]);
    for job in &listed.jobs {
        let state = match job.state {
            JobState::Waiting { .. } => "waiting",
            JobState::Running { .. } => "running",
            // How many of these are listed is a bound of the list, no fact.
            JobState::Done { .. } | JobState::Dead { .. } => continue,
        };
        *states.entry(state).or_default() += 1;
    }
    for (state, count) in states {
        page.set(Family::Jobs, &[("state", state)], count);
    }
    page
}
