//! The gateway as outsiders meet it: real HTTP, a real nats-server, services of the test's own behind it.

mod calls;
mod health;
mod house;
mod origins;
mod secrets;
mod serving;
