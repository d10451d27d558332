//! Each method's request and what becomes of its answer.

use crate::{
    answer, reader,
    server::{Server, Step},
};
use nhi_pve::{GuestKind, Kind, PveError, Reader, TaskQuery};

/// What a call asked for, and what came of it.
async fn ask<T>(
    data: &str,
    call: impl AsyncFnOnce(Reader) -> Result<T, PveError>,
) -> (String, Result<T, PveError>) {
    let bytes = answer("200 OK", &format!("{{\"data\":{data}}}"));
    let server = Server::plain(move |_| vec![Step::Answer(bytes.clone())]).await;
    let outcome = call(reader(&server)).await;
    let log = server.log();
    let path = log.paths()[0].strip_prefix("/api2/json").unwrap().to_owned();
    (path, outcome)
}

#[tokio::test]
async fn lists_are_asked_for_by_these_paths() {
    macro_rules! paths {
        ($($call:expr => $path:literal),* $(,)?) => {$(
            let (path, outcome) = ask("[]", async |reader: Reader| $call(&reader).await.map(drop)).await;
            assert_eq!((path.as_str(), outcome.is_ok()), ($path, true));
        )*};
    }
    paths! {
        Reader::cluster_status => "/cluster/status",
        Reader::cluster_resources => "/cluster/resources",
        Reader::access_permissions => "/access/permissions",
        Reader::nodes => "/nodes",
        Reader::ha_status => "/cluster/ha/status/current",
        Reader::ha_resources => "/cluster/ha/resources",
        Reader::pools => "/pools",
        Reader::cluster_backup_not_backed_up => "/cluster/backup-info/not-backed-up",
        async |reader: &Reader| reader.node_qemu("a").await => "/nodes/a/qemu",
        async |reader: &Reader| reader.node_qemu_full("a").await => "/nodes/a/qemu?full=1",
        async |reader: &Reader| reader.node_lxc("a").await => "/nodes/a/lxc",
        async |reader: &Reader| reader.node_storage("a").await => "/nodes/a/storage",
        async |reader: &Reader| reader.storage_content_backups("a", "b/c").await
            => "/nodes/a/storage/b%2Fc/content?content=backup",
    }
}

#[tokio::test]
async fn a_configuration_is_the_current_one_not_the_pending_one() {
    let (path, config) =
        ask(r#"{"name":"nas"}"#, async |reader: Reader| reader.qemu_config("a", 100).await).await;
    assert_eq!(path, "/nodes/a/qemu/100/config?current=1");
    assert_eq!(config.unwrap().name().as_deref(), Some("nas"));
    let (path, config) =
        ask(r#"{"hostname":"dns"}"#, async |reader: Reader| reader.lxc_config("a", 101).await).await;
    assert_eq!(path, "/nodes/a/lxc/101/config?current=1");
    assert_eq!(config.unwrap().name().as_deref(), Some("dns"));
    let (_, config) = ask("null", async |reader: Reader| reader.lxc_config("a", 101).await).await;
    assert_eq!(*config.unwrap_err().kind(), Kind::Malformed, "no configuration is not an empty one");
}

#[tokio::test]
async fn rights_on_one_path_are_those_or_none() {
    let at = async |reader: Reader| reader.permissions_on("/vms/101").await;
    let (path, held) = ask(r#"{"/vms/101":{"VM.Audit":1}}"#, at).await;
    assert_eq!(path, "/access/permissions?path=%2Fvms%2F101");
    assert_eq!(held.unwrap().on("/vms/101"), [("VM.Audit", true)].into());
    let above = r#"{"/":{"VM.Audit":1,"Sys.Audit":0}}"#;
    assert_eq!(ask(above, at).await.1.unwrap().on("/vms/101"), [("VM.Audit", true)].into(), "what spreads");
    for none in ["{}", "[]", r#"{"/vms/101":{}}"#, r#"{"/vms/101":{},"/":{"VM.Audit":1}}"#] {
        assert!(ask(none, at).await.1.unwrap().on("/vms/101").is_empty(), "{none}");
    }
}

#[tokio::test]
async fn registered_tags_come_as_a_list_or_as_a_text() {
    for (data, tags) in [
        (r#"{"registered-tags":["a","b"],"keyboard":"de"}"#, &["a", "b"][..]),
        (r#"{"registered-tags":"b;a"}"#, &["a", "b"]),
        (r#"{"keyboard":"de"}"#, &[]),
    ] {
        let (path, read) = ask(data, async |reader: Reader| reader.registered_tags().await).await;
        assert_eq!(path, "/cluster/options");
        assert_eq!(read.unwrap().iter().map(String::as_str).collect::<Vec<_>>(), tags);
    }
    let (_, odd) =
        ask(r#"{"registered-tags":7}"#, async |reader: Reader| reader.registered_tags().await).await;
    assert_eq!(*odd.unwrap_err().kind(), Kind::Malformed);
}

#[tokio::test]
async fn the_pseudo_snapshot_current_is_none() {
    let rows =
        r#"[{"name":"before","snaptime":1},{"name":"current","running":1,"digest":"x","parent":"before"}]"#;
    let (path, read) =
        ask(rows, async |reader: Reader| reader.snapshots(GuestKind::Qemu, "a", 100).await).await;
    assert_eq!(path, "/nodes/a/qemu/100/snapshot");
    let names: Vec<String> = read.unwrap().into_iter().map(|snapshot| snapshot.name).collect();
    assert_eq!(names, ["before"]);
}

#[tokio::test]
async fn interfaces_of_a_stopped_container_are_none_and_not_an_empty_list() {
    let (path, read) = ask("null", async |reader: Reader| reader.lxc_interfaces("a", 101).await).await;
    assert_eq!((path.as_str(), read.unwrap()), ("/nodes/a/lxc/101/interfaces", None));
    let (_, read) = ask("[]", async |reader: Reader| reader.lxc_interfaces("a", 101).await).await;
    assert_eq!(read.unwrap().map(|read| read.rows.len()), Some(0));
}

#[tokio::test]
async fn the_agents_answer_is_inside_its_result() {
    let rows = r#"{"result":[{"name":"lo"},{"name":"eth0"}]}"#;
    let (path, read) = ask(rows, async |reader: Reader| reader.qemu_agent_interfaces("a", 100).await).await;
    assert_eq!(path, "/nodes/a/qemu/100/agent/network-get-interfaces");
    assert_eq!(read.unwrap().rows.len(), 2);
    for odd in [r#"{"result":{"error":{"class":"CommandNotFound"}}}"#, "{}", "[]", "null", "5"] {
        let (_, read) = ask(odd, async |reader: Reader| reader.qemu_agent_interfaces("a", 100).await).await;
        assert_eq!(*read.unwrap_err().kind(), Kind::Malformed, "{odd}");
    }
}

#[tokio::test]
async fn tasks_are_asked_for_with_the_running_ones_and_a_limit() {
    let query = TaskQuery { since: Some(1_718_000_000), kind: Some("vzdump"), limit: 500 };
    let (path, read) = ask("[]", async move |reader: Reader| reader.node_tasks("a", &query).await).await;
    assert_eq!(path, "/nodes/a/tasks?source=all&limit=500&since=1718000000&typefilter=vzdump");
    assert!(read.is_ok());
    let query = TaskQuery { since: None, kind: None, limit: 50 };
    let (path, _) = ask("[]", async move |reader: Reader| reader.node_tasks("a", &query).await).await;
    assert_eq!(path, "/nodes/a/tasks?source=all&limit=50");
}

#[tokio::test]
async fn a_log_is_asked_for_by_its_task_and_to_a_limit() {
    let upid = "UPID:a:00000001:00000001:00000001:vzdump::a@pam!t:";
    let lines = r#"[{"n":1,"t":"INFO: starting new backup job"},{"n":2,"t":""},{"t":"lost"}]"#;
    let (path, read) = ask(lines, async move |reader: Reader| reader.task_log("a", upid, 5000).await).await;
    let upid = upid.replace(':', "%3A").replace('@', "%40").replace('!', "%21");
    assert_eq!(path, format!("/nodes/a/tasks/{upid}/log?limit=5000"));
    let read = read.unwrap();
    assert_eq!((read.unreadable, read.rows[1].number, read.rows[1].text.as_str()), (1, 2, ""));
}

#[tokio::test]
async fn data_of_another_shape_is_no_empty_list() {
    for data in ["null", "{}", "\"\"", "0"] {
        let (_, read) = ask(data, async |reader: Reader| reader.node_qemu("a").await).await;
        let error = read.unwrap_err();
        assert_eq!((error.kind(), error.path()), (&Kind::Malformed, "/nodes/a/qemu"), "{data}");
    }
}

#[tokio::test]
async fn a_name_too_long_for_a_request_is_an_error_and_is_not_sent() {
    let server = Server::plain(|_| Vec::new()).await;
    for length in [7000, 100_000] {
        let error = reader(&server).node_status(&"n".repeat(length)).await.unwrap_err();
        assert_eq!(*error.kind(), Kind::InvalidParameter);
        assert!(error.to_string().len() < 1000, "{error}");
    }
    assert_eq!(server.log().connections, 0);
    // The control: a name as long as a name may get is asked for.
    let (path, read) =
        ask("[]", async |reader: Reader| reader.node_lxc(&"\u{1f600}".repeat(500)).await).await;
    assert!(path.len() > 6000 && read.is_ok(), "{read:?}");
}
