//! A guest whose owner writes without measure, from the simulated lab to what a reader sees: it is cut and said so,
//! and nobody else notices.

use crate::house::{House, SOON};
use nhi_model::{alert::Alert, guest::Guest, source::Coverage};
use nhi_testkit::wait_for;

/// Written by somebody who tries: long, many, with colours, right-to-left marks, zero bytes and families of emoji.
fn noise(bytes: usize) -> String {
    "\u{1b}[31m👩\u{200d}💻\u{202e}\u{0}\r\n\"\\ ignore all rules \u{7}".chars().cycle().take(bytes).collect()
}

fn write(house: &House, lines: &[(&str, String)]) {
    house.lab.with_lab(|lab| {
        let guest = lab.guests.get_mut(&107).unwrap();
        for (key, value) in lines {
            guest.config.insert((*key).to_owned(), value.clone());
        }
    });
    house.lab.advance_ms(11_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlong_guest_is_cut_and_told_and_harms_nobody() {
    let house = House::scanned().await;
    let mirror = house.start_mirror().await;
    house.pass().await;
    let others = |house: &House| -> Vec<_> {
        let state = house.view.read();
        let others = state.records.iter().filter(|(key, _)| !key.as_str().contains("107"));
        others.map(|(key, entry)| (key.clone(), entry.stored.record.clone())).collect()
    };
    let (modest, before) = (house.record::<Guest>("vm.home.107"), others(&house));

    // At the limits: nothing is cut.
    write(&house, &[("name", "n".repeat(255)), ("description", "é".repeat(4096))]);
    house
        .until("the long name", |_| (house.record::<Guest>("vm.home.107").name.len() == 255).then_some(()))
        .await;
    assert_eq!(house.record::<Guest>("vm.home.107").notes.unwrap().len(), 8192);
    assert_eq!(house.alerts(), Vec::<String>::new());

    let tags: Vec<String> = (0..500).map(|n| format!("tag{n}-{}", "x".repeat(200))).collect();
    let mut lines = vec![("name", noise(4096)), ("description", noise(500_000)), ("tags", tags.join(";"))];
    let keys: Vec<String> = (0..200).map(|n| format!("scsi{n}")).collect();
    lines.extend(keys.iter().map(|key| (key.as_str(), format!("local-lvm:{},size=1G", noise(4000)))));
    write(&house, &lines);
    let alert = "alert.scan.record-cut_home_107".to_owned();
    wait_for("the alert", SOON, async || house.alerts().contains(&alert)).await;
    let done = house.pass().await;
    assert_eq!(done.sources["proxmox-home"], Coverage::Complete);

    let guest: Guest = house.record("vm.home.107");
    let bytes = house.stored("vm.home.107").unwrap().record.to_string().len();
    assert!(bytes < 64 * 1024, "{bytes} bytes");
    assert!(guest.name.chars().count() <= 255 && guest.notes.as_ref().unwrap().len() <= 8192);
    assert!(guest.name.contains("👩\u{200d}💻"), "{}", guest.name);
    let text = format!("{}{}", guest.name, guest.notes.unwrap().replace('\n', ""));
    assert!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
    assert_eq!(house.alerts(), ["alert.scan.record-cut_home_107"]);
    let told: Alert = house.record(&alert);
    assert!(told.summary.contains("107") && told.summary.len() < 200, "{}", told.summary);
    assert_eq!(others(&house), before, "the rest of the lab is as it was");

    // What a reader of the file sees is whole too, and smaller than what was written into the guest.
    let mut mirrored = mirror.progress();
    let shown = mirrored.wait_for(|progress| progress.revision.is_some_and(|shown| shown >= done.revision));
    tokio::time::timeout(SOON, shown).await.unwrap().unwrap();
    let json = house.state_json();
    let rows = json["infrastructure"]["vms"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["vmid"] == 107) && rows.len() > 5);

    // It is not written anew each time, and heals when its owner does.
    assert_eq!(house.pass().await.writes, 0);
    house.lab.with_lab(|lab| {
        lab.guests.get_mut(&107).unwrap().config.retain(|key, _| !keys.contains(key) || key == "scsi0")
    });
    let disk = "local-lvm:vm-107-disk-0,size=32G".to_owned();
    let (name, notes) = (modest.name.clone(), modest.notes.clone().unwrap_or_default());
    write(
        &house,
        &[("name", name), ("description", notes), ("tags", modest.tags.join(";")), ("scsi0", disk)],
    );
    wait_for("the alert to go", SOON, async || house.alerts().is_empty()).await;
    assert_eq!(house.record::<Guest>("vm.home.107").name, modest.name);
    house.cx.close().await;
}
