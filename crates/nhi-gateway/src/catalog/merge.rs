//! What is offered after a survey, from what was offered before it. It reads no clock and asks nobody.

use super::{LATE_MAX, Offered, Seen, version};
use nhi_bus::discover::{EndpointInfo, ServiceInfo, Survey};
use std::{collections::BTreeMap, sync::Arc};

/// Problems of one service told at most.
const PROBLEMS_MAX: usize = 16;

/// The offer now. A service that is late stays for a while; one that is gone goes.
pub(super) fn merge(before: &Seen, survey: Survey) -> Seen {
    let mut problems = Vec::new();
    if survey.ignored > 0 {
        problems.push(format!("{} answers to discovery describe no service", survey.ignored));
    }
    for (name, id) in survey.unconfirmed.iter().take(PROBLEMS_MAX) {
        problems.push(format!(
            "somebody calls itself {name} with the id {id}, and does not answer under that name"
        ));
    }
    let mut services: Vec<Offered> = offered(survey.services);
    let mut late = BTreeMap::new();
    for name in survey.silent {
        let times = before.late.get(&name).copied().unwrap_or(0) + 1;
        let last = before.services.iter().filter(|offered| offered.name == name);
        if times < LATE_MAX && last.clone().next().is_some() {
            services.extend(last.cloned());
            late.insert(name, times);
        }
    }
    services
        .sort_by(|a, b| (&a.name, version::order(&a.version)).cmp(&(&b.name, version::order(&b.version))));
    Seen { services: Arc::new(services), problems: Arc::new(problems), late }
}

/// One entry for each name and version.
fn offered(infos: Vec<ServiceInfo>) -> Vec<Offered> {
    let mut entries: BTreeMap<(String, String), Offered> = BTreeMap::new();
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for info in infos {
        let ServiceInfo { name, id, version, description, endpoints, problems } = info;
        let known = versions.entry(name.clone()).or_default();
        if !known.contains(&version) {
            known.push(version.clone());
        }
        let entry = entries.entry((name.clone(), version.clone())).or_insert_with(|| Offered {
            name,
            version,
            description,
            instances: Vec::new(),
            endpoints: Vec::new(),
            problems: Vec::new(),
        });
        for problem in problems.into_iter().chain(unite(entry, endpoints)) {
            if entry.problems.len() < PROBLEMS_MAX && !entry.problems.contains(&problem) {
                entry.problems.push(problem);
            }
        }
        entry.instances.push(id);
    }
    let mut entries: Vec<Offered> = entries.into_values().collect();
    for entry in &mut entries {
        let others = versions.get(&entry.name).into_iter().flatten().filter(|v| **v != entry.version);
        let others: Vec<&str> = others.map(String::as_str).collect();
        if !others.is_empty() {
            let others = others.join(", ");
            entry.problems.push(format!("runs beside version {others}: a call may reach either"));
        }
    }
    entries
}

/// Adds the endpoints of another instance; what it tells differently is a problem, and the first counts.
fn unite(entry: &mut Offered, endpoints: Vec<EndpointInfo>) -> Vec<String> {
    let mut problems = Vec::new();
    let is_first = entry.instances.is_empty();
    for endpoint in endpoints {
        match entry.endpoints.binary_search_by(|known| known.name.cmp(&endpoint.name)) {
            Ok(at) if entry.endpoints[at] == endpoint => {}
            Ok(_) => problems.push(format!("instances describe {} differently", endpoint.name)),
            Err(at) => {
                if !is_first {
                    problems.push(format!("not every instance has {}", endpoint.name));
                }
                entry.endpoints.insert(at, endpoint);
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn info(name: &str, id: &str, version: &str) -> ServiceInfo {
        ServiceInfo {
            name: name.to_owned(),
            id: id.to_owned(),
            version: version.to_owned(),
            description: String::new(),
            endpoints: Vec::new(),
            problems: Vec::new(),
        }
    }

    fn survey(services: Vec<ServiceInfo>, silent: &[&str]) -> Survey {
        let silent = silent.iter().map(|name| (*name).to_owned()).collect();
        Survey { services, silent, ignored: 0, unconfirmed: BTreeSet::new() }
    }

    fn names(seen: &Seen) -> Vec<(&str, &str, usize)> {
        seen.services.iter().map(|o| (o.name.as_str(), o.version.as_str(), o.instances.len())).collect()
    }

    #[test]
    fn versions_are_told_apart_and_the_newest_is_last() {
        let services = vec![
            info("kettle", "a", "1.10.0"),
            info("kettle", "b", "1.9.0"),
            info("kettle", "c", "1.9.0"),
            info("alarm", "d", ""),
        ];
        let seen = merge(&Seen::default(), survey(services, &[]));
        assert_eq!(names(&seen), [("alarm", "", 1), ("kettle", "1.9.0", 2), ("kettle", "1.10.0", 1)]);
        assert_eq!(seen.services[0].problems, Vec::<String>::new());
        assert!(seen.services[1].problems[0].contains("1.10.0"), "{:?}", seen.services[1].problems);
    }

    #[test]
    fn who_is_late_stays_for_a_while_and_who_is_gone_goes() {
        let first = merge(&Seen::default(), survey(vec![info("kettle", "a", "1")], &[]));
        let gone = merge(&first, survey(vec![], &[]));
        assert_eq!(names(&gone), []);
        let mut seen = first;
        for _ in 1..LATE_MAX {
            seen = merge(&seen, survey(vec![], &["kettle"]));
            assert_eq!(names(&seen), [("kettle", "1", 1)]);
        }
        let seen = merge(&seen, survey(vec![], &["kettle"]));
        assert_eq!(names(&seen), [], "late too often");
        let never_seen = merge(&Seen::default(), survey(vec![], &["act"]));
        assert_eq!((names(&never_seen), never_seen.late.len()), (vec![], 0));
    }
}
