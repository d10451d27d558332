//! Draws a [`Sight`] into whatever size the terminal has. It asks nobody anything.

use super::sight::{Happened, Mood, Row, Sight};
use ratatui_core::{
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    terminal::Frame,
    text::Line,
};
use ratatui_widgets::{
    block::Block,
    borders::Borders,
    paragraph::{Paragraph, Wrap},
    table::{self, Cell, Table, TableState},
};
use std::collections::VecDeque;

/// Events kept.
const EVENTS_MAX: usize = 200;
/// Below this the GPUs stand under the nodes.
const NARROW_COLUMNS: u16 = 90;

/// What is shown below the guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tab {
    #[default]
    Alerts,
    Plans,
    Agents,
    Events,
}

impl Tab {
    const ALL: [Self; 4] = [Self::Alerts, Self::Plans, Self::Agents, Self::Events];

    fn at(self, step: usize) -> Self {
        let place = Self::ALL.iter().position(|tab| *tab == self).unwrap_or_default();
        Self::ALL[(place + step) % Self::ALL.len()]
    }

    pub(super) fn next(self) -> Self {
        self.at(1)
    }

    pub(super) fn before(self) -> Self {
        self.at(Self::ALL.len() - 1)
    }
}

/// What is on the screen.
#[derive(Debug, Default)]
pub(super) struct Screen {
    sight: Option<Sight>,
    /// Why the last look failed; what is shown is older then.
    trouble: Option<String>,
    events: VecDeque<Happened>,
    pub(super) tab: Tab,
    guests: TableState,
}

impl Screen {
    pub(super) fn see(&mut self, sight: Sight) {
        self.sight = Some(sight);
        self.trouble = None;
    }

    pub(super) fn fail(&mut self, trouble: String) {
        self.trouble = Some(trouble);
    }

    pub(super) fn happen(&mut self, events: Vec<Happened>) {
        for event in events {
            self.events.push_front(event);
        }
        self.events.truncate(EVENTS_MAX);
    }

    /// Moves the mark among the guests.
    pub(super) fn move_by(&mut self, step: isize) {
        let last = self.sight.as_ref().map_or(0, |sight| sight.guests.len()).saturating_sub(1);
        let now = self.guests.selected().unwrap_or_default();
        let there = now.saturating_add_signed(step).min(last);
        self.guests.select(Some(there));
    }
}

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, screen: &mut Screen) {
    let Screen { sight, trouble, events, tab, guests } = screen;
    let Some(sight) = sight else {
        let text = trouble.as_deref().unwrap_or("asking the mesh …");
        return frame.render_widget(Paragraph::new(text), frame.area());
    };
    let is_narrow = frame.area().width < NARROW_COLUMNS;
    let rows = |count: usize| u16::try_from(count.clamp(1, 6)).unwrap_or(6);
    let (nodes, gpus) = (rows(sight.nodes.len()) + 3, rows(sight.gpus.len()) + 2);
    let above = if is_narrow { nodes + gpus } else { nodes.max(gpus) };
    let parts = [
        Constraint::Length(1),
        Constraint::Length(above),
        Constraint::Min(4),
        Constraint::Max(9),
        Constraint::Length(1),
    ];
    let [head, above, middle, below, foot] = Layout::vertical(parts).areas(frame.area());
    header(frame, head, sight, trouble.as_deref());
    let [left, right] = if is_narrow {
        Layout::vertical([Constraint::Length(nodes), Constraint::Length(gpus)]).areas(above)
    } else {
        Layout::horizontal([Constraint::Percentage(55), Constraint::Percentage(45)]).areas(above)
    };
    let widths = [
        Constraint::Min(10),
        Constraint::Length(9),
        Constraint::Length(6),
        Constraint::Length(7),
        Constraint::Length(9),
    ];
    let table = listed("nodes", &sight.nodes, widths, Some(["NODE", "STATUS", "CPU", "MEMORY", "UP"]));
    frame.render_widget(table, left);
    gpu_panel(frame, right, sight);
    let running = sight.guests.iter().filter(|guest| guest.cells[3] == "running").count();
    let title = format!("guests · {running} of {} running", sight.guests.len());
    let widths = [
        Constraint::Length(6),
        Constraint::Min(14),
        Constraint::Length(10),
        Constraint::Length(9),
        Constraint::Length(6),
        Constraint::Length(7),
        Constraint::Length(16),
    ];
    let head = ["ID", "NAME", "NODE", "STATUS", "CPU", "MEMORY", "ADDRESS"];
    let table = listed(&title, &sight.guests, widths, Some(head));
    frame.render_stateful_widget(table.row_highlight_style(Modifier::REVERSED), middle, guests);
    bottom(frame, below, sight, events, *tab);
    let keys = "q quit · Tab or 1-4 panel · ↑↓ PgUp PgDn guests";
    frame.render_widget(Line::styled(keys, Modifier::DIM), foot);
}

fn header(frame: &mut Frame<'_>, area: Rect, sight: &Sight, trouble: Option<&str>) {
    let warning = trouble.map(|text| format!("not current: {text}"));
    let warning = warning.or_else(|| sight.stale.as_ref().map(|reason| format!("not current: {reason}")));
    let line = match warning {
        Some(text) => Line::styled(
            format!("! {text} · {}", sight.head),
            Style::new().fg(Color::Black).bg(Color::Yellow),
        ),
        None => Line::styled(format!("Neural-Home · {}", sight.head), Modifier::BOLD),
    };
    frame.render_widget(line, area);
}

fn gpu_panel(frame: &mut Frame<'_>, area: Rect, sight: &Sight) {
    if sight.gpus.is_empty() {
        let text = refusal(sight, "GPUs").unwrap_or("no machine tells of a GPU; `nhi agent gpu` on it does");
        return note(frame, area, "GPUs", text);
    }
    let widths = [Constraint::Length(14), Constraint::Length(7), Constraint::Min(10)];
    frame.render_widget(listed("GPUs", &sight.gpus, widths, None), area);
}

fn bottom(frame: &mut Frame<'_>, area: Rect, sight: &Sight, events: &VecDeque<Happened>, tab: Tab) {
    let title = |name: &str, count: usize| format!("{name} · {count}");
    match tab {
        Tab::Alerts if sight.alerts.is_empty() => note(frame, area, "alerts", "no alerts"),
        Tab::Alerts => {
            let widths = [Constraint::Length(9), Constraint::Percentage(50), Constraint::Percentage(50)];
            frame.render_widget(
                listed(&title("alerts", sight.alerts.len()), &sight.alerts, widths, None),
                area,
            );
        }
        Tab::Plans if sight.plans.is_empty() => {
            note(frame, area, "plans", refusal(sight, "plans").unwrap_or("no plan waits or runs"));
        }
        Tab::Plans => {
            let widths =
                [Constraint::Length(18), Constraint::Length(14), Constraint::Min(20), Constraint::Length(18)];
            frame.render_widget(listed(&title("plans", sight.plans.len()), &sight.plans, widths, None), area);
        }
        Tab::Agents if sight.agents.is_empty() => {
            note(frame, area, "agents", refusal(sight, "agents").unwrap_or("nobody answers"));
        }
        Tab::Agents => {
            let widths = [Constraint::Length(20), Constraint::Length(12), Constraint::Min(14)];
            frame.render_widget(
                listed(&title("agents", sight.agents.len()), &sight.agents, widths, None),
                area,
            );
        }
        Tab::Events if events.is_empty() => {
            note(frame, area, "events", "nothing has changed since this began")
        }
        Tab::Events => {
            let lines: Vec<Line<'_>> =
                events.iter().map(|event| Line::raw(format!("{}  {}", event.at, event.text))).collect();
            frame.render_widget(Paragraph::new(lines).block(framed("events")), area);
        }
    }
}

fn refusal<'s>(sight: &'s Sight, what: &str) -> Option<&'s str> {
    sight.refused.iter().find(|(name, _)| *name == what).map(|(_, text)| text.as_str())
}

fn note(frame: &mut Frame<'_>, area: Rect, title: &str, text: &str) {
    frame.render_widget(Paragraph::new(text.to_owned()).wrap(Wrap { trim: true }).block(framed(title)), area);
}

fn framed(title: &str) -> Block<'static> {
    Block::new().borders(Borders::ALL).border_style(Modifier::DIM).title(format!(" {title} "))
}

fn listed<const N: usize>(
    title: &str,
    rows: &[Row<N>],
    widths: [Constraint; N],
    head: Option<[&'static str; N]>,
) -> Table<'static> {
    let styled = |row: &Row<N>| {
        let style = match row.mood {
            Mood::Good => Style::new().fg(Color::Green),
            Mood::Plain => Style::new(),
            Mood::Warn => Style::new().fg(Color::Yellow),
            Mood::Bad => Style::new().fg(Color::Red),
        };
        table::Row::new(row.cells.iter().cloned().map(Cell::from)).style(style)
    };
    let table = Table::new(rows.iter().map(styled), widths).block(framed(title)).column_spacing(1);
    match head {
        Some(head) => table.header(table::Row::new(head).style(Modifier::DIM)),
        None => table,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui_core::{backend::TestBackend, terminal::Terminal};

    fn shown(screen: &mut Screen, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, screen)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let lines = buffer.content.chunks(usize::from(width));
        lines
            .map(|cells| cells.iter().map(ratatui_core::buffer::Cell::symbol).collect::<String>() + "\n")
            .collect()
    }

    fn sight() -> Sight {
        let got = serde_json::json!({
            "revision": 7, "as_of": "2026-07-01T12:00:00Z", "sources": {},
            "records": {
                "node.home.pve1": record(&serde_json::json!({
                    "cluster": "home", "node": "pve1", "status": "online", "level": ""
                })),
            },
        });
        Sight::of(&serde_json::from_value(got).unwrap())
    }

    fn record(value: &serde_json::Value) -> serde_json::Value {
        serde_json::json!({
            "revision": 7, "at": "2026-07-01T12:00:00Z", "op": "00000000-0000-4000-8000-000000000000", "record": value
        })
    }

    #[test]
    fn what_is_not_known_is_said_in_every_size() {
        for (width, height) in [(80, 24), (120, 40), (40, 12), (10, 3), (1, 1)] {
            let mut screen = Screen::default();
            let _waiting = shown(&mut screen, width, height);
            screen.see(sight());
            for tab in Tab::ALL {
                screen.tab = tab;
                let text = shown(&mut screen, width, height);
                if width >= 80 {
                    assert!(
                        text.contains("pve1") && text.contains('—') && text.contains("no machine"),
                        "{text}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_look_that_failed_is_said_over_what_was_seen() {
        let mut screen = Screen::default();
        screen.see(sight());
        assert!(!shown(&mut screen, 100, 30).contains("not current"));
        screen.fail("the mesh is away".to_owned());
        let text = shown(&mut screen, 100, 30);
        assert!(text.contains("not current: the mesh is away") && text.contains("pve1"), "{text}");
        screen.see(sight());
        assert!(!shown(&mut screen, 100, 30).contains("not current"));
    }

    #[test]
    fn the_mark_stays_among_the_guests() {
        let mut screen = Screen::default();
        screen.move_by(5);
        assert_eq!(screen.guests.selected(), Some(0));
    }
}
