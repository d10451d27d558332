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
use crossterm::{
    cursor,
    event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    terminal::{self, EnterAlternateScreen, LeaveAlternateScreen},
};
use futures::StreamExt as _;
use nhi_bus::feed::Feed;
use ratatui_core::terminal::Terminal;
use ratatui_crossterm::CrosstermBackend;
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
    let mut taken = Taken::take().context("take the terminal").ending(Exit::Failed)?;
    let shown = show(mesh, feed, &mut taken.screen).await;
    drop(taken);
    shown.context("draw on the terminal").ending(Exit::Failed)
}

/// The terminal as this needs it. Dropping it, also in a panic, puts it back as it was.
struct Taken {
    screen: Terminal<CrosstermBackend<io::Stdout>>,
}

impl Taken {
    fn take() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        let taken = Terminal::new(CrosstermBackend::new(io::stdout())).map(|screen| Self { screen });
        if taken.is_err() {
            // Nobody sees more than that it did not work.
            let _ = terminal::disable_raw_mode();
        }
        let taken = taken?;
        crossterm::execute!(io::stdout(), EnterAlternateScreen)?;
        Ok(taken)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing put back.
        let _ = crossterm::execute!(io::stdout(), LeaveAlternateScreen, cursor::Show);
        let _ = terminal::disable_raw_mode();
    }
}

async fn show(
    mesh: &Mesh,
    mut feed: Feed,
    terminal: &mut Terminal<CrosstermBackend<io::Stdout>>,
) -> io::Result<()> {
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
