//! `nhi ask` and `nhi ai …`: questions to whatever model is free, and what became of them.

mod question;

use crate::{
    cli::ai::{Ai, Ask, TurnName},
    exit::{Ending, Exit, Failure},
    mesh::{Mesh, call_failure},
    out,
};
use anyhow::Context;
use nhi_bus::call::{self, Call, Frame, Opened, Timeout};
use nhi_model::ai::{
    AiJobs, AiJobsListed, AiModels, AiModelsAsk, AiResult, AiSubmit, AiSubmitted, AiUsage, AiUsed, Job,
    JobPriority, JobState, ORIGIN_FIELD, Origin, Routed, UsageRow,
};
use serde_json::{Map, Value, json};
use std::time::Instant;

/// `nhi ask`
///
/// # Errors
/// The call's failure, or what is wrong with the question.
pub(crate) async fn ask(mesh: &Mesh, ask: Ask, as_json: bool) -> Result<(), Failure> {
    let mut body = question::body(&ask)?;
    if as_json {
        let answer: Value = mesh.call_long("ai", "chat", &body).await?;
        out::json(&answer);
        return Ok(());
    }
    body.insert("stream".to_owned(), true.into());
    body.insert("stream_options".to_owned(), json!({ "include_usage": true }));
    let began = Instant::now();
    let payload = serde_json::to_vec(&body).context("write the question")?;
    let asked = Call::new(&mesh.bus, "ai", "chat", payload.into()).map_err(call_failure)?;
    let mut frames = call::stream(&mesh.bus, asked.timeout(Timeout::LONGEST)).await.map_err(call_failure)?;
    let mut answer = Answer::default();
    if let Opened::Whole(payload) = frames.opened().await.map_err(call_failure)? {
        answer.take(&payload, "message")?;
    }
    while let Some(frame) = frames.next().await {
        match frame {
            Ok(Frame::Part(payload) | Frame::Whole(payload)) => {
                if !answer.take(&payload, "delta")? {
                    return Ok(());
                }
            }
            Err(error) => {
                answer.close();
                return Err(call_failure(error));
            }
        }
    }
    answer.close();
    out::note(&answer.footer(began));
    Ok(())
}

/// An answer while it comes.
#[derive(Default)]
struct Answer {
    is_open: bool,
    origin: Option<Origin>,
    tokens: Option<u64>,
    finish: Option<String>,
}

impl Answer {
    /// Prints what a chunk says; false when nobody reads any more.
    fn take(&mut self, payload: &[u8], part: &str) -> Result<bool, Failure> {
        let chunk: Map<String, Value> = serde_json::from_slice(payload)
            .context("a piece of the answer is not readable")
            .ending(Exit::Failed)?;
        let origin = chunk.get(ORIGIN_FIELD).and_then(|origin| serde_json::from_value(origin.clone()).ok());
        self.origin = origin.or(self.origin.take());
        let usage = chunk.get("usage").and_then(|usage| usage.get("completion_tokens"));
        self.tokens = usage.and_then(Value::as_u64).or(self.tokens);
        let choice = chunk.get("choices").and_then(|choices| choices.get(0));
        let finish = choice.and_then(|choice| choice.get("finish_reason")).and_then(Value::as_str);
        self.finish = finish.map(str::to_owned).or(self.finish.take());
        let text = choice.and_then(|choice| choice.get(part)).and_then(|message| message.get("content"));
        match text.and_then(Value::as_str) {
            Some(text) if !text.is_empty() => {
                self.is_open = !text.ends_with('\n');
                Ok(out::piece(text))
            }
            Some(_) | None => Ok(true),
        }
    }

    /// Ends the last line.
    fn close(&mut self) {
        if std::mem::take(&mut self.is_open) {
            out::line("");
        }
    }

    /// Who answered, and why.
    fn footer(&self, began: Instant) -> String {
        let mut words = Vec::new();
        if let Some(origin) = &self.origin {
            words.push(format!("{}/{}", out::safe(&origin.provider), out::safe(&origin.model)));
            words.push(out::safe(&origin.reason));
            words.extend(origin.failed.iter().map(|failed| {
                format!("{} before it: {}", out::safe(&failed.provider), out::safe(&failed.reason))
            }));
            words.extend(
                origin.seams.iter().map(|seam| format!("from character {} on by {}", seam.at, seam.provider)),
            );
        }
        words.extend(self.tokens.map(|tokens| format!("{tokens} tokens")));
        if self.finish.as_deref() == Some("length") {
            words.push("cut at its longest: --max-tokens allows more".to_owned());
        }
        words.push(format!("{:.1} s", began.elapsed().as_secs_f64()));
        words.join(" · ")
    }
}

/// Runs one of the ai commands.
///
/// # Errors
/// The call's failure.
pub(crate) async fn run(mesh: &Mesh, command: Ai, as_json: bool) -> Result<(), Failure> {
    match command {
        Ai::Models => {
            let models: AiModels = mesh.call("ai", "models", &AiModelsAsk {}).await?;
            show_models(&models, as_json);
        }
        Ai::Route(ask) => {
            let routed: Routed = mesh.call("ai", "route", &question::body(&ask)?).await?;
            show_route(&routed, as_json);
        }
        Ai::Usage { days, by, csv } => {
            let request = AiUsage { days: Some(days), by: Some(by.by()) };
            let used: AiUsed = mesh.call_long("ai", "usage", &request).await?;
            if csv { print_csv(&used.rows) } else { show_usage(&used, as_json) }
        }
        Ai::Jobs => {
            let listed: AiJobsListed = mesh.call("ai", "jobs", &AiJobs {}).await?;
            show_jobs(&listed, as_json);
        }
        Ai::Submit { ask, turn } => {
            let request = question::body(&ask)?.into_iter().collect();
            let submit = AiSubmit { request, priority: turn.map(TurnName::priority) };
            let submitted: AiSubmitted = mesh.call("ai", "submit", &submit).await?;
            if as_json {
                out::json(&submitted);
            } else {
                out::line(&format!("{0} waits; its answer: nhi ai result {0}", submitted.job));
            }
        }
        Ai::Result { job } => return result(mesh.call("ai", "result", &AiResult { job }).await?, as_json),
    }
    Ok(())
}

fn show_models(models: &AiModels, as_json: bool) {
    if as_json {
        return out::json(models);
    }
    if models.models.is_empty() {
        return out::note("no backend is configured: [[ai.backend]] in nhi.toml, see docs/ai.md");
    }
    let rows = models.models.iter().map(|row| {
        let tokens = row.model.as_ref().and_then(|model| model.context_tokens);
        [
            row.id.clone(),
            row.providers.join(", "),
            tokens.map_or_else(String::new, |tokens| tokens.to_string()),
            if row.available { "yes" } else { "no" }.to_owned(),
            row.text.clone(),
        ]
    });
    out::table(["MODEL", "PROVIDERS", "CONTEXT", "NOW", "WHY"], rows);
}

fn show_route(routed: &Routed, as_json: bool) {
    if as_json {
        return out::json(routed);
    }
    if !routed.read_as.is_empty() {
        out::line(&format!("read as: {}", out::safe(&routed.read_as.join(", "))));
    }
    let order = routed.order.iter().enumerate().map(|(place, choice)| {
        [(place + 1).to_string(), choice.provider.clone(), choice.model.clone(), choice.reason.clone()]
    });
    let lost = routed.lost.iter().map(|lost| {
        let until = lost.until.map_or_else(String::new, |until| format!(" (until {until:.0})"));
        ["-".to_owned(), lost.provider.clone(), lost.model.clone(), format!("{}{until}", lost.text)]
    });
    out::table(["", "PROVIDER", "MODEL", "WHY"], order.chain(lost));
    if routed.order.is_empty() {
        let again = routed.again_at.map_or_else(String::new, |at| format!(" before {at:.0}"));
        out::note(&format!("nobody can answer this{again}"));
    }
}

fn show_usage(used: &AiUsed, as_json: bool) {
    if as_json {
        return out::json(used);
    }
    if used.rows.is_empty() {
        out::note("nothing was asked in that time");
    } else {
        let rows = used.rows.iter().map(|row| {
            [
                row.of.clone(),
                row.requests.to_string(),
                row.failed.to_string(),
                row.input_tokens.to_string(),
                row.output_tokens.to_string(),
                format!("{:.4}", row.cost),
                row.first_token_ms.map_or_else(String::new, |ms| format!("{ms} ms")),
            ]
        });
        out::table(["OF", "REQUESTS", "FAILED", "IN", "OUT", "USD", "FIRST TOKEN"], rows);
    }
    let unjudged: u64 = used.rows.iter().map(|row| row.judge_failed).sum();
    if unjudged > 0 {
        out::note(&format!("of {unjudged} requests no judge said what they are about; plain signs did"));
    }
    if !used.quotas.is_empty() {
        let rows = used.quotas.iter().map(|row| {
            let part = format!("{} of {}", row.used, row.limit);
            [row.provider.clone(), row.what.clone(), part, format!("{:.0}", row.resets_at)]
        });
        out::table(["PROVIDER", "QUOTA", "USED", "STARTS ANEW"], rows);
    }
}

fn print_csv(rows: &[UsageRow]) {
    out::line("of,requests,failed,input_tokens,output_tokens,cost_usd,first_token_ms");
    for row in rows {
        let first = row.first_token_ms.map_or_else(String::new, |ms| ms.to_string());
        let UsageRow { of, requests, failed, input_tokens, output_tokens, cost, .. } = row;
        let of = format!("\"{}\"", out::safe(of).replace('"', "\"\""));
        out::line(&format!("{of},{requests},{failed},{input_tokens},{output_tokens},{cost:.6},{first}"));
    }
}

/// How far a job is: a word and a sentence.
fn told(job: &Job) -> (&'static str, String) {
    match &job.state {
        JobState::Waiting { text } => ("waiting", text.clone()),
        JobState::Running { attempt } => ("running", format!("try {attempt}")),
        JobState::Done { until, .. } => ("done", format!("kept until {until:.0}")),
        JobState::Dead { text } => ("dead", text.clone()),
    }
}

const fn turn(priority: JobPriority) -> &'static str {
    match priority {
        JobPriority::High => "high",
        JobPriority::Medium => "medium",
        JobPriority::Low => "low",
    }
}

fn show_jobs(listed: &AiJobsListed, as_json: bool) {
    if as_json {
        return out::json(listed);
    }
    if listed.jobs.is_empty() {
        return out::note("no jobs: nhi ai submit makes one of a question that can wait");
    }
    let rows = listed.jobs.iter().map(|job| {
        let (state, text) = told(job);
        [
            job.job.to_string(),
            format!("{:.0}", job.at),
            job.by.to_string(),
            job.asked.clone(),
            turn(job.priority).to_owned(),
            state.to_owned(),
            text,
        ]
    });
    out::table(["JOB", "AT", "BY", "MODEL", "TURN", "STATE", ""], rows);
}

fn result(job: Job, as_json: bool) -> Result<(), Failure> {
    if as_json {
        out::json(&job);
    }
    let (state, text) = told(&job);
    match &job.state {
        JobState::Done { answer, .. } if !as_json => {
            let content = answer.get("choices").and_then(|choices| choices.pointer("/0/message/content"));
            out::line(content.and_then(Value::as_str).unwrap_or_default());
            Ok(())
        }
        JobState::Done { .. } => Ok(()),
        JobState::Waiting { .. } | JobState::Running { .. } => {
            Err(Failure::new(Exit::Failed, format!("{} is {state}: {}", job.job, out::safe(&text))))
        }
        JobState::Dead { .. } => {
            Err(Failure::new(Exit::Failed, format!("{} failed: {}", job.job, out::safe(&text))))
        }
    }
}
