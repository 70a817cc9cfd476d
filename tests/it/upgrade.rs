//! Databases that earlier versions left behind: opened, migrated, drained.
//!
//! `fixtures/schema-N.db` was made by the last version that wrote schema N, with: six leads, two of them changed twice; destination
//! `well` that took all ten events, `rejects` with ten dead letters, `failing` with mapped bodies that were tried, `offline` and `paused`
//! with everything still to come.

use crate::support::http::Client;
use crate::support::{Daemon, Home, Receiver, SECRET, eventually};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The schemas there have been before the present one.
const EARLIER: [i64; 1] = [1];

const CREATED: [&str; 6] = [
    "evt_160aqpya3zsg1cvmv343gzqs8x",
    "evt_54w5b9e56vvdepnkbd0htvt4m8",
    "evt_1mjd6z03vpkf6byrst2r1zh2pg",
    "evt_5ebb6ykptd0yhgrva6v61szn63",
    "evt_1wkvapnaz7k8p93tg1gydtm4pq",
    "evt_531q023xn6m42r0wrr79v0ztyk",
];

#[test]
fn a_database_of_every_earlier_schema_is_migrated_and_drained_with_its_ids_and_bytes() {
    assert_eq!(EARLIER.len() as i64, leadsbotd::store::VERSION - 1, "a new schema needs a fixture of the one before");
    for schema in EARLIER {
        let names = ["well", "rejects", "failing", "offline", "paused"];
        let receivers: BTreeMap<&str, Receiver> = names.into_iter().map(|name| (name, Receiver::well())).collect();
        let destinations: String = receivers.iter().map(|(name, r)| Home::webhook(name, &r.url(), "")).collect();
        let home = Home::new(&destinations);
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/it/fixtures/schema-{schema}.db"));
        std::fs::copy(fixture, home.database()).unwrap();
        let status = home.run(&["queue", "status"]);
        assert!(String::from_utf8_lossy(&status.stderr).contains("start the daemon once, it migrates the file"));

        let daemon = Daemon::start(&home);
        let ids = |name: &str| receivers[name].taken().iter().map(|d| d.event_id().to_owned()).collect::<BTreeSet<_>>();
        eventually("what waited arrives", || ids("failing").len() == 10 && ids("offline").len() == 10);
        home.ok(&["queue", "resume", "paused"]);
        home.ok(&["queue", "retry", "rejects", "--dead"]);
        eventually("what was held and dead arrives", || ids("paused").len() == 10 && ids("rejects").len() == 10);
        assert_eq!(ids("well").len(), 0, "what had been delivered was sent again");
        for name in ["rejects", "failing", "offline", "paused"] {
            assert!(CREATED.iter().all(|id| ids(name).contains(*id)), "{name}: ids have changed");
            assert!(receivers[name].seen().iter().all(|d| d.verified(SECRET)));
        }
        assert!(
            receivers["failing"].taken().iter().filter(|d| CREATED.contains(&d.event_id())).all(|d| d.json().get("Name").is_some()),
            "a body that a receiver may have seen was made anew"
        );
        let leads = home.ok(&["leads", "export", "--format", "json"]);
        let leads: Vec<serde_json::Value> = leads.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(leads.len(), 6);
        assert_eq!(leads.iter().filter(|l| l["score"] == 77 && l["status"] == "contacted").count(), 2);
        let (_, event) = Client::new(daemon.address).lead(&serde_json::json!({"name":"New"}));
        eventually("a new lead arrives", || ids("well") == BTreeSet::from([event.clone()]));
        assert_eq!(daemon.stop().0, Some(0));
        assert!(home.ok(&["check"]).contains("whole"));
    }
}
