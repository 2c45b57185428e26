//! A connection to an upstream may be used again only if the upstream will read the next request.
//!
//! tinyproxy does not: after the first request it passes everything on to that request's origin
//! until the response ends, and the end of a chunked one it does not see but counts on the origin
//! to close, as it asked for that. Whoever sends the next request down such a connection hands it,
//! with its cookies and tinyproxy's own password, to an origin that did not close.

use crate::origin::Origin;
use crate::proxies::tinyproxy;
use crate::relay::{Relay, Settings};
use crate::wire::Client;

#[test]
#[ignore = "needs tinyproxy (Debian package tinyproxy)"]
fn a_request_never_reaches_the_origin_of_the_one_before() {
    let (curious, honest) = (Origin::start(), Origin::start());
    let proxy = tinyproxy();
    let relay = Relay::start(&Settings::new(&honest.url("/ok")).upstream(&proxy));
    for number in 0..20 {
        let mut client = Client::connect(relay.port());
        let answer = client.get(&curious.url("/stubborn")).expect("an answer");
        assert_eq!(answer.0, 200, "the curious origin answers");
        let name = format!("letter-{number}");
        let answer = client
            .get(&honest.url(&format!("/once/{name}")))
            .expect("an answer");
        assert_eq!(
            answer,
            (200, name.clone().into_bytes()),
            "{name} came to the wrong origin"
        );
    }
    assert_eq!(honest.seen().len(), 20);
}
