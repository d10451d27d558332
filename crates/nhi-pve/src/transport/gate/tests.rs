//! Turns, polled by hand: nothing here waits.

use super::{Gate, Ticket};
use futures::FutureExt;
use std::pin::Pin;

type Turn<'a> = Pin<Box<dyn Future<Output = Ticket<'a>> + 'a>>;

fn enter<'a>(gate: &'a Gate, node: &str) -> Turn<'a> {
    Box::pin(gate.enter((!node.is_empty()).then(|| node.to_owned())))
}

fn now<'a>(turn: &mut Turn<'a>) -> Option<Ticket<'a>> {
    turn.now_or_never()
}

#[test]
fn two_per_node_and_the_third_when_one_leaves() {
    let gate = Gate::new(2);
    let first = now(&mut enter(&gate, "a")).unwrap();
    let _second = now(&mut enter(&gate, "a")).unwrap();
    let mut third = enter(&gate, "a");
    assert!(now(&mut third).is_none());
    assert!(now(&mut enter(&gate, "b")).is_some(), "another node has its own");
    drop(first);
    assert!(now(&mut third).is_some());
}

#[test]
fn a_call_to_a_node_without_a_name_counts_for_every_node() {
    let gate = Gate::new(2);
    let _nameless = now(&mut enter(&gate, "")).unwrap();
    let named = now(&mut enter(&gate, "a")).unwrap();
    assert!(now(&mut enter(&gate, "a")).is_none());
    assert!(now(&mut enter(&gate, "")).is_none(), "the busiest node counts");
    drop(named);
    assert!(now(&mut enter(&gate, "")).is_some());
}

#[test]
fn first_come_first_served_per_node() {
    let gate = Gate::new(1);
    let running = now(&mut enter(&gate, "a")).unwrap();
    let (mut second, mut third) = (enter(&gate, "a"), enter(&gate, "a"));
    assert!(now(&mut second).is_none() && now(&mut third).is_none());
    drop(running);
    assert!(now(&mut third).is_none(), "not before the second");
    let second = now(&mut second).unwrap();
    drop(second);
    assert!(now(&mut third).is_some());
}

#[test]
fn a_nameless_call_is_not_starved_by_named_ones() {
    let gate = Gate::new(1);
    let running = now(&mut enter(&gate, "a")).unwrap();
    let mut nameless = enter(&gate, "");
    assert!(now(&mut nameless).is_none());
    let mut later = enter(&gate, "b");
    assert!(now(&mut later).is_none(), "it came after the nameless one");
    drop(running);
    let nameless = now(&mut nameless).unwrap();
    assert!(now(&mut later).is_none());
    drop(nameless);
    assert!(now(&mut later).is_some());
}

#[test]
fn whoever_gives_up_waiting_holds_nobody_back() {
    let gate = Gate::new(1);
    let running = now(&mut enter(&gate, "a")).unwrap();
    let mut gives_up = enter(&gate, "a");
    assert!(now(&mut gives_up).is_none());
    let mut last = enter(&gate, "a");
    assert!(now(&mut last).is_none());
    drop(gives_up);
    drop(running);
    assert!(now(&mut last).is_some());
}

#[test]
fn whoever_is_admitted_and_never_looks_gives_the_turn_back() {
    let gate = Gate::new(1);
    let running = now(&mut enter(&gate, "a")).unwrap();
    let mut admitted = enter(&gate, "a");
    assert!(now(&mut admitted).is_none());
    drop(running);
    drop(admitted);
    assert!(now(&mut enter(&gate, "a")).is_some());
    assert!(gate.lock().running.is_empty() && gate.lock().waiting.is_empty());
}
