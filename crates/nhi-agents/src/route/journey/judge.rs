//! Asks a model what a request is about, where one is configured for that. Whatever goes wrong there, the request goes on
//! with what plain signs say, and the failure is counted on its line.

use super::{Journey, Passed, Ready, happened, late};
use nhi_decide::{
    route::{Happened, Pick, intent, judge_request, judges},
    weave::Tokens,
};
use nhi_llm::{Hints, LlmError, Reply};
use nhi_model::{Timestamp, ai::Intent};
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

impl Journey<'_> {
    /// Asks for a judgement, within its own short time.
    pub(in crate::route) async fn judge(&mut self) {
        let now = Timestamp::now();
        let picks = judges(now, &self.settings, &self.world(now), &self.ask);
        let until = Instant::now() + Duration::from_millis(self.settings.judge.deadline_ms.into());
        let until = until.min(self.until());
        for pick in picks {
            match self.judged_by(&pick, until).await {
                Ok(Some(intent)) => {
                    self.ask.intent = intent;
                    return self.note.judged(true);
                }
                Ok(None) => self.note.judged(false),
                Err(Passed::Reason(_) | Passed::Budget(_) | Passed::Quota(_)) => {}
            }
            if Instant::now() >= until {
                return;
            }
        }
    }

    /// What one says; nothing when it fails or nobody understands it.
    async fn judged_by(&mut self, pick: &Pick, until: Instant) -> Result<Option<Intent>, Passed> {
        let Ready { backend, taken, place: _place } = self.take(pick, until).await?;
        let request = judge_request(pick, &self.ask);
        self.note.begin_judge(pick, taken);
        let (began, hints) = (Instant::now(), Hints { num_ctx: pick.num_ctx, ..Hints::default() });
        let answer = match timeout_at(until, backend.chat(request, &hints)).await {
            Ok(Ok(Reply::Whole(answer))) => answer,
            Ok(Ok(Reply::Stream(_))) => return Ok(self.mute(pick, &late("it streams a judgement"))),
            Ok(Err(error)) => return Ok(self.mute(pick, &error)),
            Err(_) => {
                // Our own haste says nothing against it.
                self.tell(pick, &Happened::NotItsFault);
                self.note.end(true);
                return Ok(None);
            }
        };
        let told = answer.get("choices").and_then(|choices| choices.pointer("/0/message/content"));
        let text = told.and_then(Value::as_str).unwrap_or_default();
        let counted = answer.get("usage").and_then(Tokens::read);
        self.note.progress(counted, text.chars().count() as u64);
        self.note.end(true);
        let first_token = self.desk.pool.latency(&pick.choice.provider).unwrap_or(began.elapsed());
        let first_token_ms = u64::try_from(first_token.as_millis()).unwrap_or(u64::MAX);
        self.tell(pick, &Happened::Answered { first_token_ms });
        Ok(intent::judged(text))
    }

    fn mute(&mut self, pick: &Pick, error: &LlmError) -> Option<Intent> {
        self.tell(pick, &happened(pick, error));
        self.note.end(error.kind.was_sent());
        None
    }
}
