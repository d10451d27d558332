//! Counters of the gateway in Prometheus' text format. It measures nothing that a request says about itself.

use axum::http::StatusCode;
use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

/// The counters since start.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    answered: [AtomicU64; CLASSES.len()],
    refused: AtomicU64,
}

const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

impl Metrics {
    /// An answer was given.
    pub(crate) fn answered(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(2);
        if let Some(counter) = self.answered.get(class) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A request was refused by its head.
    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// All of them, with the gauges that others know.
    pub(crate) fn text(&self, connections: usize, is_linked: bool) -> String {
        let mut out = String::from("# TYPE nhi_gateway_requests_total counter\n");
        let mut line = |text: std::fmt::Arguments<'_>| {
            out.write_fmt(text).and_then(|()| out.write_char('\n')).expect("a string takes everything");
        };
        for (class, counter) in CLASSES.iter().zip(&self.answered) {
            let count = counter.load(Ordering::Relaxed);
            line(format_args!("nhi_gateway_requests_total{{code=\"{class}\"}} {count}"));
        }
        line(format_args!("# TYPE nhi_gateway_refused_total counter"));
        line(format_args!("nhi_gateway_refused_total {}", self.refused.load(Ordering::Relaxed)));
        line(format_args!("# TYPE nhi_gateway_connections gauge"));
        line(format_args!("nhi_gateway_connections {connections}"));
        line(format_args!("# TYPE nhi_gateway_linked gauge"));
        line(format_args!("nhi_gateway_linked {}", u8::from(is_linked)));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_class() {
        let metrics = Metrics::default();
        for status in [StatusCode::OK, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND, StatusCode::BAD_GATEWAY]
        {
            metrics.answered(status);
        }
        metrics.refused();
        let text = metrics.text(3, true);
        for line in [
            "nhi_gateway_requests_total{code=\"2xx\"} 1",
            "nhi_gateway_requests_total{code=\"4xx\"} 2",
            "nhi_gateway_requests_total{code=\"5xx\"} 1",
            "nhi_gateway_refused_total 1",
            "nhi_gateway_connections 3",
            "nhi_gateway_linked 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
