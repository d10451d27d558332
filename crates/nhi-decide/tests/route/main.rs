//! Who answers a request and why each other one does not; quotas, pauses and breakers; privacy as a property. It
//! needs no backend.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

mod continued;
mod day;
mod health;
mod lab;
mod length;
mod lost;
mod order;
mod privacy;
mod quotas;
mod reading;
mod settings;
