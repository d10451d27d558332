//! The operator against the simulated lab: whatever goes wrong, a call arrives once, and what is said of it is true.

#![expect(clippy::unwrap_used, reason = "a test says where it failed, its helpers too")]

mod calls;
mod faults;

use nhi_pve::{
    Accepted, Address, ApiToken, Endpoint, Limits, Operator, SendError, TaskNow, Trust, Upid, Write,
    WriteMethod,
};
use nhi_sim::{Fault, LabOptions, Running};
use std::{collections::BTreeMap, time::Duration};

/// The demo home and an operator with the actuator's token.
struct Lab {
    sim: Running,
    operator: Operator,
}

impl Lab {
    /// Only the first node has an address.
    async fn start() -> Self {
        Self::with(LabOptions { task_ms: 20, auth_delay_ms: 0, ..LabOptions::demo() }, |_| {}).await
    }

    async fn with(options: LabOptions, change: impl FnOnce(&mut Limits)) -> Self {
        let sim = nhi_sim::serve(options).await.unwrap();
        let token = ApiToken::parse(&sim.act_token.id, &sim.act_token.secret).unwrap();
        let trust = Trust::ca_pem(sim.ca_pem.as_bytes()).unwrap();
        let urls: Vec<Address> = sim.node_urls.values().map(|url| url.parse().unwrap()).collect();
        let mut endpoint = Endpoint::new(urls, token, trust).unwrap();
        change(&mut endpoint.limits);
        Self { sim, operator: Operator::new(endpoint).unwrap() }
    }

    async fn send(
        &self,
        method: WriteMethod,
        path: &str,
        params: &[(&str, &str)],
    ) -> Result<Accepted, SendError> {
        let params: BTreeMap<String, String> =
            params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let node = path.split('/').nth(2).unwrap();
        self.operator.send(&Write { method, path, params: &params, node }).await
    }

    async fn post(&self, path: &str, params: &[(&str, &str)]) -> Result<Accepted, SendError> {
        self.send(WriteMethod::Post, path, params).await
    }

    /// Sends a call that begins a task, follows it, and gives its exit text.
    async fn task(&self, method: WriteMethod, path: &str, params: &[(&str, &str)]) -> String {
        match self.send(method, path, params).await {
            Ok(Accepted::Task(upid)) => self.exit(&upid).await,
            other => panic!("{path}: {other:?}"),
        }
    }

    /// Follows a task to its end.
    async fn exit(&self, upid: &Upid) -> String {
        let ended = async {
            loop {
                match self.operator.task(upid).await.unwrap() {
                    TaskNow::Ended(exit) => return exit,
                    // The lab's own time moves only as far as it is told.
                    TaskNow::Running => self.sim.advance_ms(20),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap()
    }

    fn fault(&self, fault: Fault) -> u64 {
        self.sim.set_fault(fault).unwrap()
    }

    fn running(&self, vmid: u32) -> bool {
        self.sim.with_lab(|lab| lab.guests[&vmid].power.is_up())
    }

    /// Writes that arrived so far, by method and path.
    fn arrivals(&self) -> Vec<String> {
        self.sim
            .counts()
            .write_log
            .into_iter()
            .map(|write| format!("{} {}", write.method, write.path))
            .collect()
    }

    /// Starts that the node's task list has.
    async fn starts(&self, node: &str, vmid: u32) -> usize {
        let tasks = self.operator.tasks_since(node, vmid, 0).await.unwrap();
        assert_eq!(tasks.unreadable, 0);
        tasks.rows.iter().filter(|task| task.kind == "qmstart").count()
    }
}
