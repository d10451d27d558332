//! The commands as their user meets them: the real binary and a real nats-server.

mod acting;
mod doctor;
mod gpu;
mod machines;
mod mesh;
mod outages;
mod proxmox;
mod terminal;
mod troubles;
mod up;
mod wrong;
