//! Random moments to kill at. Evenly spread ones would mostly find everybody waiting, so most are aimed at work that has
//! just begun. It kills nobody.

use crate::{SOON, house::House};
use nhi_bus::{connect::Bus, view::View};
use nhi_testkit::wait_for;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// A commit, its way to the files and the files themselves take a few tens of milliseconds.
const AFTER_COMMIT_MICROS_MAX: u64 = 60_000;
/// A pass over the lab takes a few hundred.
const AFTER_REQUEST_MICROS_MAX: u64 = 400_000;
/// Any moment: the scanner looks every second.
const ANY_MICROS_MAX: u64 = 1_000_000;
/// The last stretch is spun, because a timer is too coarse.
const SPIN: Duration = Duration::from_millis(15);

/// A small generator, seeded: a failing run can be repeated, as far as the machine's own timing allows.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Where work can be seen to begin.
pub(crate) struct Moments {
    lab: Arc<nhi_sim::Running>,
    view: View,
    /// The connection the view lives on.
    _home: Bus,
}

impl Moments {
    pub(crate) async fn of(house: &House) -> Self {
        let home = house.connect("home").await;
        let view = View::open(&house.cx, &home).await.unwrap();
        Self { lab: house.lab.clone(), view, _home: home }
    }

    /// Returns at a moment of one of three kinds, and says which.
    pub(crate) async fn wait_for_one(&self, dice: &mut Dice) -> String {
        let (kind, micros_max) = match dice.below(5) {
            0 | 1 => ("a commit", AFTER_COMMIT_MICROS_MAX),
            2 | 3 => ("a request", AFTER_REQUEST_MICROS_MAX),
            _ => ("the last round", ANY_MICROS_MAX),
        };
        let micros = dice.below(micros_max);
        match kind {
            "a commit" => {
                let mut changed = self.view.changed();
                changed.mark_unchanged();
                let seen = tokio::time::timeout(SOON, changed.changed()).await;
                seen.expect("the lab changes all the time").unwrap();
            }
            "a request" => {
                let before = self.lab.counts().requests;
                wait_for("the scanner to ask", SOON, async || self.lab.counts().requests > before).await;
            }
            _ => {}
        }
        let at = Instant::now() + Duration::from_micros(micros);
        wait_for("the moment", SOON, async || Instant::now() + SPIN >= at).await;
        while Instant::now() < at {
            std::hint::spin_loop();
        }
        format!("killed {micros} µs after {kind}")
    }
}
