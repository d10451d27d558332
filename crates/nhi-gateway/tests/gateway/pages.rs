//! The dashboard's files as browsers get them.

use crate::house::House;

#[tokio::test]
async fn the_page_comes_with_its_policy_and_once() {
    let house = House::open().await;
    let page = house.get("/").await;
    assert_eq!(page.status, 200, "{page:?}");
    assert!(page.head.contains("content-type: text/html") && page.body.contains("<html"), "{page:?}");
    for header in [
        "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
         connect-src 'self'; font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cache-control: no-cache",
    ] {
        assert!(page.head.contains(header), "{header}: {}", page.head);
    }
    // What the policy forbids is not in the page.
    assert!(!page.body.contains(" style=") && !page.body.contains("<style"), "{}", page.body);
    assert!(!page.body.contains("<script>"), "{}", page.body);
    let etag = page.head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
    let again = house.send("GET", "/", &[("If-None-Match", &etag)], "").await;
    assert_eq!((again.status, again.body.as_str()), (304, ""), "{again:?}");
    let other = house.send("GET", "/", &[("If-None-Match", "\"0\"")], "").await;
    assert_eq!(other.status, 200);
    house.close().await;
}

#[tokio::test]
async fn unknown_paths_are_pages_for_people_and_errors_for_programs() {
    let house = House::open().await;
    let browser = [("Accept", "text/html,*/*;q=0.8")];
    assert_eq!(house.send("GET", "/guests", &browser, "").await.status, 200);
    for (path, headers) in [("/guests", &[][..]), ("/mesh/x", &browser), ("/v1/x", &browser)] {
        let answer = house.send("GET", path, headers, "").await;
        assert!(matches!(answer.status, 404 | 405), "{path}: {answer:?}");
    }
    let rebound = "GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert_eq!(house.raw(rebound).await.status, 403);
    house.close().await;
}
