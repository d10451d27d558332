//! Games among the processes: Steam's starter, folders of launchers, and what the owner names. A process that merely
//! draws is no game: the desktop and every browser do that.

use crate::{
    process::{Process, Processes, base},
    sensor::{Game, Sign},
};
use std::collections::BTreeSet;

/// Folders below which launchers put games, in lower case with `/`.
const FOLDERS: &[&str] =
    &["/steamapps/common/", "/epic games/", "/gog galaxy/games/", "/gog games/", "/riot games/"];
/// The same of the program whose window is in front.
#[cfg(any(windows, test))]
const FOLDERS_IN_FRONT: &[&str] = &["/games/", "/xboxgames/"];
/// What lives in such a folder and is no game: Steam's runtimes, Proton, the launchers themselves.
const NO_GAMES: &[&str] =
    &["/steamlinuxruntime", "/proton", "/steamworks shared/", "/epic games/launcher/", "/riot client/"];

/// The game that runs, the surest sign first.
pub(crate) fn find(processes: &Processes, named: &BTreeSet<String>) -> Option<Game> {
    let look = |judge: &dyn Fn(&Process) -> Option<Game>| processes.all.values().find_map(judge);
    look(&|process| steam(process))
        .or_else(|| look(&|process| by_owner(process, named)))
        .or_else(|| look(&|process| in_folder(process)))
}

/// `…/reaper SteamLaunch AppId=570 -- …`: it lives exactly as long as the game.
fn steam(process: &Process) -> Option<Game> {
    if process.name() != "reaper" || process.words.get(1).is_none_or(|word| word != "SteamLaunch") {
        return None;
    }
    let app = process.words.iter().find_map(|word| word.strip_prefix("AppId=")).unwrap_or_default();
    Some(Game { name: app.to_owned(), sign: Sign::Steam })
}

fn by_owner(process: &Process, named: &BTreeSet<String>) -> Option<Game> {
    let name = process.which_of(named)?;
    Some(Game { name: name.to_owned(), sign: Sign::Named })
}

fn in_folder(process: &Process) -> Option<Game> {
    below(process.words.first()?, FOLDERS)
}

/// A program at work in front of somebody, by where it stands: there a folder named for games is enough. Below Linux's
/// own such folder stand fortunes and adventures, which nobody hands a whole GPU.
#[cfg(any(windows, test))]
pub(crate) fn in_front(path: &str) -> Option<Game> {
    below(path, FOLDERS).or_else(|| below(path, FOLDERS_IN_FRONT))
}

fn below(path: &str, folders: &[&str]) -> Option<Game> {
    let plain = path.to_lowercase().replace('\\', "/");
    let is_game = folders.iter().any(|folder| plain.contains(folder))
        && !NO_GAMES.iter().any(|other| plain.contains(other));
    is_game.then(|| Game { name: base(path).to_owned(), sign: Sign::Folder })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(words: &[&str]) -> Option<Game> {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        let processes =
            Processes { all: [(7, Process { words, parent: Some(1) })].into(), ..Processes::default() };
        find(&processes, &BTreeSet::from(["minecraft".to_owned()]))
    }

    #[test]
    fn games_are_told_from_what_stands_beside_them() {
        let steam = "/opt/steam/ubuntu12_32/reaper";
        let check = |words: &[&str], name: &str, sign| {
            assert_eq!(found(words), Some(Game { name: name.to_owned(), sign }), "{words:?}");
        };
        check(&[steam, "SteamLaunch", "AppId=570", "--", "dota"], "570", Sign::Steam);
        check(&["/games/steamapps/common/dota 2/dota2"], "dota2", Sign::Folder);
        check(&["Z:\\Games\\SteamApps\\common\\Portal\\hl2.exe"], "hl2.exe", Sign::Folder);
        check(&["java", "-jar", "/opt/minecraft.jar"], "minecraft.jar", Sign::Named);
        for other in [
            &[steam, "--version"][..],
            &["/usr/bin/steam", "SteamLaunch"],
            &["/games/steamapps/common/SteamLinuxRuntime_sniper/pv"],
            &["/games/steamapps/common/Proton 9.0/files/bin/wineserver"],
            &["/usr/lib/firefox/firefox", "https://minecraft.example"],
            &["/usr/bin/grep", "-r", "AppId=570", "reaper"],
        ] {
            assert_eq!(found(other), None, "{other:?}");
        }
    }

    #[test]
    fn what_is_in_front_is_a_game_by_its_folder_alone() {
        for (path, name) in [
            ("C:\\Program Files (x86)\\Steam\\steamapps\\common\\Portal\\hl2.exe", Some("hl2.exe")),
            ("D:\\Games\\Tetris\\tetris.exe", Some("tetris.exe")),
            ("C:\\XboxGames\\Forza\\Content\\forza.exe", Some("forza.exe")),
            ("C:\\Program Files\\Epic Games\\Fortnite\\fortnite.exe", Some("fortnite.exe")),
            ("C:\\Program Files (x86)\\Steam\\steam.exe", None),
            ("C:\\Program Files (x86)\\Epic Games\\Launcher\\Portal\\EpicGamesLauncher.exe", None),
            ("C:\\Program Files\\Mozilla Firefox\\firefox.exe", None),
        ] {
            assert_eq!(in_front(path).map(|game| game.name).as_deref(), name, "{path}");
        }
        assert_eq!(
            found(&["D:\\Games\\Tetris\\tetris.exe"]),
            None,
            "the control: one in the background is not"
        );
    }
}
