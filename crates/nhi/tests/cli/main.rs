//! The commands as their user meets them: the real binary and a real nats-server.

mod machines;
mod mesh;
mod outages;
mod proxmox;
mod up;
