//! `nhi top`: the lab at a glance that stays current, for people in a terminal. It only reads, as the chosen identity;
//! what that identity may not see is said where it would stand.
//!
//! The change feed says when to look again; gauges are looked at every two seconds.

mod sight;
mod view;

use crate::{
    exit::{Ending, Exit, Failure},
    mesh::Mesh,
};
use anyhow::{Context as _, anyhow};
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures::StreamExt as _;
use nhi_bus::feed::Feed;
use sight::{Happened, Sight};
use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};
use tokio::time::{MissedTickBehavior, interval};
use view::{Screen, Tab};

/// Between two looks at the gauges.
const PACE: Duration = Duration::from_secs(2);

/// Runs until somebody leaves it.
///
/// # Errors
/// When there is no terminal, or it cannot be written.
pub(crate) async fn run(mesh: &Mesh) -> Result<(), Failure> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let error = anyhow!("nhi top needs a terminal; `nhi status` prints the same once, also as --json");
        return Err(error).ending(Exit::Usage);
    }
    let feed = Feed::open(&mesh.bus).await.context("follow what changes").ending(Exit::Unreachable)?;
    // From here on a panic puts the terminal back first.
    let mut terminal = ratatui::try_init().context("take the terminal").ending(Exit::Failed)?;
    let shown = show(mesh, feed, &mut terminal).await;
    ratatui::restore();
    shown.context("draw on the terminal").ending(Exit::Failed)
}

async fn show(mesh: &Mesh, mut feed: Feed, terminal: &mut ratatui::DefaultTerminal) -> io::Result<()> {
    let (mut screen, mut keys) = (Screen::default(), EventStream::new());
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looking = None;
    let mut is_followed = true;
    loop {
        terminal.draw(|frame| view::draw(frame, &mut screen))?;
        tokio::select! {
            event = keys.next() => match event {
                Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => {
                    if is_done(&mut screen, key) {
                        return Ok(());
                    }
                }
                // A new size is drawn by the next turn.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            },
            seen = async { looking.as_mut().expect("the branch is guarded").await }, if looking.is_some() => {
                looking = None;
                match seen {
                    Ok(sight) => screen.see(sight),
                    Err(trouble) => screen.fail(trouble),
                }
            }
            _ = pace.tick() => if looking.is_none() {
                looking = Some(Box::pin(Sight::look(mesh)));
            },
            commit = feed.next(), if is_followed => match commit {
                Some(Ok(commit)) => {
                    screen.happen(Happened::of(&commit));
                    if looking.is_none() {
                        looking = Some(Box::pin(Sight::look(mesh)));
                    }
                }
                // A record this version cannot read: the next look shows what can be.
                Some(Err(_)) => {}
                None => is_followed = false,
            },
        }
    }
}

/// Does what a key means; true when it means the end.
fn is_done(screen: &mut Screen, key: KeyEvent) -> bool {
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return true,
        // In raw mode nobody else hears it.
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
        KeyCode::Tab | KeyCode::Right => screen.tab = screen.tab.next(),
        KeyCode::BackTab | KeyCode::Left => screen.tab = screen.tab.before(),
        KeyCode::Char('1') => screen.tab = Tab::Alerts,
        KeyCode::Char('2') => screen.tab = Tab::Plans,
        KeyCode::Char('3') => screen.tab = Tab::Agents,
        KeyCode::Char('4') => screen.tab = Tab::Events,
        KeyCode::Down | KeyCode::Char('j') => screen.move_by(1),
        KeyCode::Up | KeyCode::Char('k') => screen.move_by(-1),
        KeyCode::PageDown => screen.move_by(10),
        KeyCode::PageUp => screen.move_by(-10),
        KeyCode::Home => screen.move_by(isize::MIN / 2),
        KeyCode::End => screen.move_by(isize::MAX / 2),
        _ => {}
    }
    false
}
