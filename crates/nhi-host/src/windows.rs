//! What Windows tells: a game that has the screen, stands in front or is run by Steam, the last touch of keyboard or
//! mouse, a remote session, the processes. Each function asks once and keeps nothing.
#![expect(unsafe_code, reason = "Windows' own functions are foreign to Rust; each call says why it is sound")]

use crate::{
    games,
    process::Process,
    sensor::{Game, Sign},
};
use std::{collections::BTreeMap, mem, ptr, time::Duration};
use windows_sys::{
    Win32::{
        Foundation::{CloseHandle, INVALID_HANDLE_VALUE},
        System::{
            Diagnostics::ToolHelp::{
                CreateToolhelp32Snapshot, PROCESSENTRY32W, Process32FirstW, Process32NextW,
                TH32CS_SNAPPROCESS,
            },
            Registry::{HKEY_CURRENT_USER, RRF_RT_REG_DWORD, RegGetValueW},
            SystemInformation::GetTickCount,
            Threading::{
                OpenProcess, PROCESS_NAME_WIN32, PROCESS_QUERY_LIMITED_INFORMATION,
                QueryFullProcessImageNameW,
            },
        },
        UI::{
            Input::KeyboardAndMouse::{GetLastInputInfo, LASTINPUTINFO},
            Shell::{
                QUERY_USER_NOTIFICATION_STATE, QUNS_BUSY, QUNS_PRESENTATION_MODE,
                QUNS_RUNNING_D3D_FULL_SCREEN, SHQueryUserNotificationState,
            },
            WindowsAndMessaging::{
                GetForegroundWindow, GetSystemMetrics, GetWindowThreadProcessId, SM_REMOTESESSION,
            },
        },
    },
    w,
};

/// Longest path of a program that is looked at, UTF-16 units.
const PATH_UNITS_MAX: usize = 1024;

/// A game that Steam says it runs, that has the whole screen, or that stands in front. One in a window without a border
/// has the screen in no way Windows tells of: it shows by Steam's word or by where it stands.
pub(crate) fn game() -> Option<Game> {
    if let Some(app) = steam_app() {
        return Some(Game { name: app.to_string(), sign: Sign::Steam });
    }
    let front = program_in_front();
    if let Some(game) = front.as_deref().and_then(games::in_front) {
        return Some(game);
    }
    (screen()? == QUNS_RUNNING_D3D_FULL_SCREEN).then(|| Game { name: String::new(), sign: Sign::FullScreen })
}

/// Who has the screen.
fn screen() -> Option<QUERY_USER_NOTIFICATION_STATE> {
    let mut state = 0;
    // SAFETY: the one argument points to a place of ours of the type the function writes, for the time of the call.
    let result = unsafe { SHQueryUserNotificationState(&mut state) };
    (result == 0).then_some(state)
}

/// The path of the program whose window is in front.
fn program_in_front() -> Option<String> {
    let mut pid = 0;
    // SAFETY: it takes nothing; what it gives is a name of a window, or null, and is only handed on.
    let window = unsafe { GetForegroundWindow() };
    // SAFETY: any name of a window may be asked for, also one that is gone; the number is ours through the call.
    let thread = unsafe { GetWindowThreadProcessId(window, &mut pid) };
    if window.is_null() || thread == 0 {
        return None;
    }
    // SAFETY: it takes three numbers; the handle it gives is closed below, on the one way out.
    let process = unsafe { OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, 0, pid) };
    if process.is_null() {
        return None;
    }
    let mut units = [0_u16; PATH_UNITS_MAX];
    let mut length = u32::try_from(units.len()).expect("a thousand");
    // SAFETY: the handle is open with the right the function needs; it writes at most `length` units into `units`, which
    // has so many, and the number of those it wrote into `length`.
    let known =
        unsafe { QueryFullProcessImageNameW(process, PROCESS_NAME_WIN32, units.as_mut_ptr(), &mut length) };
    // SAFETY: the handle is open and used nowhere after this.
    unsafe { CloseHandle(process) };
    let path = units.get(..usize::try_from(length).ok()?)?;
    (known != 0).then(|| String::from_utf16_lossy(path))
}

/// `HKCU\Software\Valve\Steam\RunningAppID`, 0 for none.
fn steam_app() -> Option<u32> {
    let mut app: u32 = 0;
    let mut bytes = u32::try_from(size_of::<u32>()).expect("four bytes");
    // SAFETY: both names are constant and end with a zero; the value may have at most `bytes` bytes, which is the size
    // of `app`, and both pointers live through the call. The type is limited to a number of 32 bits.
    let result = unsafe {
        RegGetValueW(
            HKEY_CURRENT_USER,
            w!("Software\\Valve\\Steam"),
            w!("RunningAppID"),
            RRF_RT_REG_DWORD,
            ptr::null_mut(),
            ptr::from_mut(&mut app).cast(),
            &mut bytes,
        )
    };
    (result == 0 && app != 0).then_some(app)
}

/// How long nobody touched keyboard or mouse of the session the agent runs in. Who watches a film or shows slides on the
/// whole screen is there without touching either.
pub(crate) fn idle() -> Option<Duration> {
    if matches!(screen(), Some(QUNS_BUSY | QUNS_PRESENTATION_MODE)) {
        return Some(Duration::ZERO);
    }
    let size = u32::try_from(size_of::<LASTINPUTINFO>()).expect("eight bytes");
    let mut last = LASTINPUTINFO { cbSize: size, dwTime: 0 };
    // SAFETY: the structure is ours, of the type the function fills, and tells its own size as it must.
    let known = unsafe { GetLastInputInfo(&mut last) };
    // SAFETY: it takes nothing and only reads a counter.
    let now = unsafe { GetTickCount() };
    // Both counters start over after 49 days.
    (known != 0).then(|| Duration::from_millis(now.wrapping_sub(last.dwTime).into()))
}

/// Whether the session the agent runs in is shown elsewhere.
pub(crate) fn is_remote_session() -> bool {
    // SAFETY: it takes a number and only reads a setting.
    unsafe { GetSystemMetrics(SM_REMOTESESSION) != 0 }
}

/// All processes, by the name of their program alone: Windows tells no path without more rights.
pub(crate) fn processes() -> BTreeMap<u32, Process> {
    let mut all = BTreeMap::new();
    // SAFETY: it takes two numbers; the handle it gives is closed below, on the one way out.
    let snapshot = unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPPROCESS, 0) };
    if snapshot == INVALID_HANDLE_VALUE {
        return all;
    }
    // SAFETY: the structure holds numbers alone, for which all bytes zero is a value.
    let mut entry: PROCESSENTRY32W = unsafe { mem::zeroed() };
    entry.dwSize = u32::try_from(size_of::<PROCESSENTRY32W>()).expect("some hundred bytes");
    // SAFETY: the handle is open, and the structure is ours and tells its own size as it must.
    let mut more = unsafe { Process32FirstW(snapshot, &mut entry) };
    while more != 0 {
        let end = entry.szExeFile.iter().position(|unit| *unit == 0).unwrap_or(entry.szExeFile.len());
        let name = String::from_utf16_lossy(&entry.szExeFile[..end]);
        let process = Process { words: vec![name], parent: Some(entry.th32ParentProcessID) };
        all.insert(entry.th32ProcessID, process);
        // SAFETY: as for the first one.
        more = unsafe { Process32NextW(snapshot, &mut entry) };
    }
    // SAFETY: the handle is open and used nowhere after this.
    unsafe { CloseHandle(snapshot) };
    all
}
