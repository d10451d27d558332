//! `nats/streams.json` says how the streams are made; here it is held against what a real server has afterwards.

use nhi_bus::{
    cx::Cx,
    store::{StoreSettings, provision},
};
use nhi_testkit::Nats;
use serde_json::Value;
use std::collections::BTreeSet;

#[tokio::test]
async fn the_streams_are_as_they_are_described() {
    let described: Vec<Value> = serde_json::from_str(include_str!("../../../nats/streams.json")).unwrap();
    let cx = Cx::new();
    let nats = Nats::start().await;
    let bus = nats.connect(&cx, "home").await;
    let made = provision(&bus, &StoreSettings { replicas: 1 }).await.unwrap();
    let home = nats.raw("home").await;
    for description in &described {
        let name = description["name"].as_str().unwrap();
        let answer = home.request(format!("$JS.API.STREAM.INFO.{name}"), "".into()).await.unwrap();
        let info: Value = serde_json::from_slice(&answer.payload).unwrap();
        for (field, wanted) in description.as_object().unwrap() {
            assert_eq!(&info["config"][field], wanted, "{field} of {name}");
        }
    }
    let names = |list: &mut dyn Iterator<Item = String>| list.collect::<BTreeSet<_>>();
    let described = names(&mut described.iter().map(|stream| stream["name"].as_str().unwrap().to_owned()));
    assert_eq!(names(&mut made.into_iter().map(|stream| stream.stream)), described);
    bus.close().await;
    cx.close().await;
}
